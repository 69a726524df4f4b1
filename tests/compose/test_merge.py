"""Merge: what it asks for, its combinations on small weights, and a picture made by hand."""

import dataclasses
from typing import Literal

import pytest
import torch
from torch import Tensor

from compose import Merge, Mix, Part, method_named, methods, record, render
from compose.engine.method import MethodAdapter
from compose.engine.weights.adapter_change import DenseChanges
from compose.engine.weights.combine import Dare, Ties
from compose.engine.weights.mixed_weights import changed_weight, mixed_weights
from studio.adapters.adapter import Adapter
from studio.adapters.delta import BiasOnly, Dense
from studio.bases.base import Base
from studio.errors import BadInput
from studio.requests.shot import Shot
from tests.compose.conftest import ByHand, bits, on_layers, same_bits, small


class Fake:
    """An ingredient of which only the strength counts."""

    def __init__(self, strength: float) -> None:
        self.strength = strength


def adapters_on(*strengths: float) -> list[MethodAdapter]:
    return [Fake(strength) for strength in strengths]  # type: ignore[misc]


def test_every_step_is_one_evaluation_of_all_adapters() -> None:
    plan = Merge().prepare(adapters_on(0.8, -0.5), steps=3)
    every = Mix((Part(0, 0.8), Part(1, -0.5)))
    calls = record(plan, 3)
    assert [[call.mix for call in step] for step in calls] == [[every]] * 3
    assert all(call.reuse is None for step in calls for call in step)


def test_methods_are_the_files_of_the_folder() -> None:
    assert methods()["merge"] is Merge
    assert not any(name.startswith("_") for name in methods())
    assert method_named("merge", {}) == Merge()


def test_unknown_method_or_option_is_named() -> None:
    with pytest.raises(BadInput, match=r"no method 'mergee'; there are .*merge"):
        method_named("mergee", {})
    with pytest.raises(BadInput, match="method merge: there is no field 'strenght'"):
        method_named("merge", {"strenght": 1})


def combined(method: Merge, pairs: list[tuple[Adapter, float]]) -> Tensor:
    """What the one layer's zero weight becomes."""
    mixed = on_layers(pairs)
    torch.nn.init.zeros_(mixed[0].layers["unet.a"].weight)  # type: ignore[arg-type]
    method.check([adapter for adapter, _ in pairs])
    ((call,),) = record(method.prepare(mixed, 1), 1)
    worn = dict(mixed_weights(call.mix, mixed, unet=True))
    return changed_weight("unet.a", worn["unet.a"], mixed[0].layers, dense=DenseChanges())


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Adapter, float]]:
    return [(small({"unet.a": (8, 12)}, seed=at), strength) for at, strength in enumerate(POWERS)]


@pytest.fixture(scope="module")
def shares(pairs: list) -> list[Tensor]:
    """strength x dW, from the factors."""
    return [
        strength * (one.deltas["unet.a"].up @ one.deltas["unet.a"].down).detach()
        for one, strength in pairs
    ]


POWERS = (0.8, 1.0, -0.5)


@pytest.mark.parametrize("name", ["linear", "cat"])
def test_linear_and_cat_are_the_exact_sum(
    name: Literal["linear", "cat"], pairs: list, shares: list[Tensor]
) -> None:
    up = torch.cat([s * one.deltas["unet.a"].up for one, s in pairs], dim=1)
    down = torch.cat([one.deltas["unet.a"].down for one, _ in pairs])
    merged = combined(Merge(name), pairs)
    torch.testing.assert_close(merged, (up @ down).detach())
    torch.testing.assert_close(merged, sum(shares))


@pytest.mark.parametrize("whole", [False, True])
def test_svd_is_the_sum_at_full_rank_and_the_nearest_below(
    pairs: list, shares: list[Tensor], whole: bool
) -> None:
    """Of factors and of changes that are written out."""
    if whole:
        changes = [Dense(share / power) for share, power in zip(shares, POWERS, strict=True)]
        made = [
            Adapter(deltas={"unet.a": change}, kind="lora", family="sdxl") for change in changes
        ]
        pairs = list(zip(made, POWERS, strict=True))
    total = torch.stack(shares).sum(0)
    torch.testing.assert_close(combined(Merge("svd", rank=6), pairs), total)
    left = combined(Merge("svd", rank=2), pairs)
    assert torch.linalg.matrix_rank(left, atol=1e-4) == 2
    sizes = torch.linalg.svdvals(total)
    # Eckart and Young: what is missing is the rest of the singular values.
    torch.testing.assert_close((total - left).norm(), sizes[2:].norm())


def test_ties_entry_by_entry(pairs: list, shares: list[Tensor]) -> None:
    kept = int(0.3 * 96)
    merged = combined(Merge("ties", density=0.3), pairs).flatten()
    rows = [share.flatten().tolist() for share in shares]
    for row in rows:
        least = sorted(map(abs, row))[-kept]
        row[:] = [entry if abs(entry) >= least else 0.0 for entry in row]
    for found, entries in zip(merged.tolist(), zip(*rows, strict=True), strict=True):
        plus = sum(entries) >= 0
        agreeing = [one for one in entries if (one > 0 if plus else one < 0)]
        assert found == pytest.approx(sum(agreeing) / max(len(agreeing), 1), abs=1e-5)


def test_dare_drops_at_random_and_is_right_on_the_average(
    pairs: list, shares: list[Tensor]
) -> None:
    total = torch.stack(shares).sum(0)
    torch.testing.assert_close(combined(Merge("dare", density=1.0), pairs), total)
    once = combined(Merge("dare", density=0.25, seed=3), pairs[:1])
    assert torch.equal(once, combined(Merge("dare", density=0.25, seed=3), pairs[:1]))
    assert not torch.equal(once, combined(Merge("dare", density=0.25, seed=4), pairs[:1]))
    torch.testing.assert_close(once[once != 0], 4 * shares[0][once != 0])
    drop = Dare(0.25, 0)
    drawn = torch.stack([dataclasses.replace(drop, seed=s)("a", shares) for s in range(2000)])
    spread = torch.stack(shares).square().sum(0).mul(3).sqrt() / 2000**0.5  # (1 - p) / p = 3
    assert ((drawn.mean(0) - total) / spread).abs().max() < 5


def test_blocks_multiply_strengths_and_the_longest_name_counts() -> None:
    names = {
        "unet.up_blocks.0.attentions.0.to_q": (4, 6),
        "unet.up_blocks.0.attentions.1.to_q": (4, 6),
        "unet.up_blocks.01.to_q": (4, 6),
        "text_encoder.a": (4, 6),
    }
    inside, style, other, text = names
    entries = (
        "up_blocks.0=0.5",
        "2:up_blocks.0.attentions.1=0",
        "1:up_blocks.0=3",
        "text_encoder=0",
    )
    method = Merge(blocks=entries)
    pairs = [(small(names, seed=at), strength) for at, strength in enumerate((0.8, 1.0))]
    method.check([adapter for adapter, _ in pairs])
    ((call,),) = record(method.prepare(on_layers(pairs), 1), 1)
    found = {
        (part.adapter, layer): part.strength
        for part in call.mix.parts
        for layer in part.layers or ()
    }
    factors = [{inside: 3, style: 3, other: 1, text: 0}, {inside: 0.5, style: 0, other: 1, text: 0}]
    assert found == {
        (at, layer): pytest.approx(factor * (0.8, 1.0)[at])
        for at, of_one in enumerate(factors)
        for layer, factor in of_one.items()
    }


def test_a_block_left_out_is_the_picture_without_its_layers(
    sdxl: Base, forms: list[Adapter]
) -> None:
    """Of a low-rank and a dense change together, combined by TIES as a check of the whole way."""
    pairs = ((forms[0], 0.8), (forms[3], 1.0))
    shot = Shot("a cat", steps=2, adapters=pairs, method=Merge("ties", blocks=("mid_block=0",)))
    before = bits(sdxl)
    expected = ByHand(sdxl, shot)
    combined = {}
    for name, layer in sdxl.layers_and_norms().items():
        has = [(one.deltas[name], strength) for one, strength in pairs if name in one.deltas]
        if has and "mid_block" not in name:
            changes = [strength * delta.dense(layer.weight).detach() for delta, strength in has]
            combined[name] = Dense(Ties(0.5)(name, changes))
    summed = Adapter(deltas=combined, kind="unknown", family="sdxl")
    worn = [(summed, 1.0, None), *((_biases(one), strength, None) for one, strength in pairs)]
    made = expected.run(lambda step: expected.eps(worn))
    torch.testing.assert_close(render(sdxl, shot, output="latents"), made, rtol=1e-4, atol=1e-4)
    assert same_bits(sdxl, before)


def _biases(adapter: Adapter) -> Adapter:
    """What it changes of biases outside the middle block."""
    deltas = adapter.deltas.items()
    found = {n: d.bias for n, d in deltas if d.bias is not None and "mid_block" not in n}
    return Adapter(deltas={n: BiasOnly(bias.detach()) for n, bias in found.items()}, family="sdxl")


def test_impossible_options_are_refused() -> None:
    one = [small({"unet.mid_block.a": (4, 6)}, seed=1)]
    for method, said in (
        (Merge(blocks=("mid_block",)), "blocks: 'mid_block' is not such as"),
        (Merge(blocks=("x:mid_block=1",)), "blocks: 'x:mid_block=1' is not such as"),
        (Merge(blocks=("mid_block=nan",)), "blocks: 'mid_block=nan' is not such as"),
        (Merge(blocks=("2:mid_block=1",)), "blocks: there is no adapter 2"),
        (Merge(blocks=("mid_bloc=1",)), "blocks: no adapter changes a layer of 'mid_bloc'"),
    ):
        with pytest.raises(BadInput, match=said):
            method.check(one)
    with pytest.raises(BadInput, match=r"combination must be one of linear, .*; it is 'sum'"):
        method_named("merge", {"combination": "sum"})


def projected(method: Merge, *pairs: tuple[Adapter, float]) -> dict[str, Tensor]:
    """The change of each layer, of adapters on bare layers."""
    changes = on_layers(pairs)
    method.check([adapter for adapter, _ in pairs])
    (mix,) = method.prepare(changes, 1).mixes
    worn = dict(mixed_weights(mix, changes, unet=True))
    layers = changes[0].layers
    with torch.no_grad():
        return {
            name: changed_weight(name, of, layers, dense=DenseChanges()) - layers[name].weight  # type: ignore[operator]
            for name, of in worn.items()
        }


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(("kappa", "k"), [(1.0, None), (0.4, None), (0.7, 1), (0.0, None)])
def test_np_is_the_papers_formula(dense: bool, kappa: float, k: int | None) -> None:
    """The style whole, and the content without its share of the style's leading directions."""
    content, style = small({"unet.a": (5, 9)}, seed=1, rank=3), small({"unet.a": (5, 9)}, seed=2)
    changes = [one.deltas["unet.a"].dense(torch.zeros(5, 9)).detach() for one in (content, style)]
    if dense:
        content = dataclasses.replace(content, deltas={"unet.a": Dense(changes[0])})
    method = Merge("np", kappa=kappa, k=k)
    found = projected(method, (content, 0.5), (style, 0.8))["unet.a"]
    leading = torch.linalg.svd(0.8 * changes[1]).Vh[: k or 2]
    kept = torch.eye(9) - kappa * leading.T @ leading
    torch.testing.assert_close(found, 0.8 * changes[1] + 0.5 * changes[0] @ kept)
    if kappa == 1:
        assert ((found - 0.8 * changes[1]) @ leading.T).abs().max() < 1e-5
    if kappa == 0:
        plain = projected(Merge(), (content, 0.5), (style, 0.8))["unet.a"]
        torch.testing.assert_close(found, plain)


def test_np_knows_content_and_style_by_their_roles() -> None:
    only = {"unet.a": (4, 6)}, {"unet.a": (4, 6), "unet.b": (3, 5)}, {"unet.b": (3, 5)}
    one, two, three = (small(layers, seed=at) for at, layers in enumerate(only))
    method = Merge("np", kappa=1)
    turned = projected(Merge("np", kappa=1, style=(1,)), (two, 1.0), (one, 1.0))
    found = projected(method, (one, 1.0), (two, 1.0))
    torch.testing.assert_close(turned["unet.a"], found["unet.a"])
    swapped = projected(method, (two, 1.0), (one, 1.0))
    assert not torch.allclose(swapped["unet.a"], found["unet.a"], atol=0.1)
    # A layer that one role alone changes has the plain sum.
    three_of = (one, 1.0), (two, 1.0), (three, 1.0)
    plain = projected(Merge(), *three_of)
    mixed = projected(Merge("np", kappa=1, style=(1,)), *three_of)
    torch.testing.assert_close(mixed["unet.b"], plain["unet.b"])
    assert not torch.allclose(mixed["unet.a"], plain["unet.a"], atol=0.1)
    alone = projected(Merge(), (one, 1.0))["unet.a"]
    weak = projected(method, (one, 1.0), (two, 0.0))  # without strength it has no directions
    torch.testing.assert_close(weak["unet.a"], alone)
    torch.testing.assert_close(projected(method, (one, 1.0))["unet.a"], alone)
    for wrong, said in (
        (Merge("np"), "say which of the 3 adapters are the style"),
        (Merge("np", style=(4,)), "style: there is no adapter 4"),
        (Merge("np", style=(1, 2, 3)), "style: np needs a content"),
    ):
        with pytest.raises(BadInput, match=said):
            wrong.check([one, two, three])
