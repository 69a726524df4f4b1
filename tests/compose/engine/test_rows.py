"""Rows of one batch under different changes, against every block of rows by itself."""

import dataclasses
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from compose import CMLoRA, Composite, Mix, Part, render
from compose.engine.evaluate import evaluate
from compose.engine.method import Call
from compose.engine.picture_run import PictureRun
from compose.engine.weights.batched_layers import Factors, LayerChanges, RowBlock, prepare_layers
from compose.engine.weights.render_cache import cache_of
from studio.adapters.adapter import Adapter
from studio.adapters.delta import LowRank, attach
from studio.bases.base import Base
from studio.requests.resolved_shot import resolve
from studio.requests.shot import Shot
from tests.compose.conftest import Asks, bits, noise, same_bits

DRAW = torch.Generator().manual_seed(0)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=DRAW)


def low_rank(layer: nn.Module, rank: int) -> Factors:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return Factors(drawn(rank, *weight.shape[1:]), drawn(len(weight), rank))


def by_hand(layer: nn.Module, x: Tensor, worn: LayerChanges) -> Tensor:
    """A block through a copy of the layer with the changed weight."""
    changed = worn.get("a")
    own = layer.state_dict()
    if isinstance(changed, Factors):
        product = changed.up @ changed.down.flatten(1)
        own["weight"] = own["weight"] + product.view_as(own["weight"])
    elif changed is not None:
        own["weight"] = changed
    if isinstance(bias := worn.get("a.bias"), Tensor):
        own["bias"] = bias
    return torch.func.functional_call(layer, own, (x,))


LAYERS = {
    "linear": (nn.Linear(12, 10), (12,)),
    "tokens": (nn.Linear(12, 10), (7, 12)),
    "conv": (nn.Conv2d(6, 10, 3, stride=2, padding=1), (6, 8, 8)),
    "point": (nn.Conv2d(6, 10, 1), (6, 5, 4)),
    "strided point": (nn.Conv2d(6, 10, 1, stride=2), (6, 8, 8)),
}


@pytest.fixture
def fold_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that find room are folded."""
    monkeypatch.setattr("compose.engine.weights.batched_layers.FOLDING_LINEAR", 0)
    monkeypatch.setattr("compose.engine.weights.batched_layers.FOLDING_CONV", 0)


@pytest.mark.usefixtures("fold_all")
@pytest.mark.parametrize("room", [0, 2**20])
@pytest.mark.parametrize("rows", [(2, 2, 2, 2), (1, 3, 2, 1), (6, 1, 1, 1)])
@pytest.mark.parametrize("name", LAYERS)
def test_each_stretch_wears_its_own(name: str, rows: tuple[int, ...], room: int) -> None:
    layer, shape = LAYERS[name]
    weight, bias = layer.weight.detach(), layer.bias.detach()
    shared = drawn(*weight.shape)
    outfits: Sequence[Sequence[LayerChanges]] = (
        [{"a": low_rank(layer, rank)} for rank in (3, 1, 4, 2)],
        [{"a": low_rank(layer, 3)}, {}, {"a": low_rank(layer, 2)}, {}],
        [{"a": shared}, {"a": shared}, {}, {"a": drawn(*weight.shape)}],
        [{"a": shared}] * 4,
        [{"a.bias": bias + 1}] * 2 + [{"a": low_rank(layer, 2), "a.bias": bias - 1}, {}],
        [{"a": shared, "a.bias": bias + 1}] * 4,
    )
    x = drawn(sum(rows), *shape)
    for outfit in outfits:
        blocks = [RowBlock(count, worn) for count, worn in zip(rows, outfit, strict=True)]
        fitting = prepare_layers({"a": layer}, blocks, room=room)
        expected = torch.cat(
            [by_hand(layer, part, worn) for part, worn in zip(x.split(rows), outfit, strict=True)]
        )
        with fitting.applied():
            torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer(x), by_hand(layer, x, {}), rtol=0, atol=0)


@pytest.mark.parametrize(("room", "tokens", "folded"), [(2, 64, 2), (1, 64, 1), (2, 2, 0)])
def test_changes_are_folded_where_there_is_room_and_much_to_multiply(
    room: int, tokens: int, folded: int
) -> None:
    """room: of how many layers."""
    layers = {name: nn.Linear(8, 8) for name in "ab"}
    worn = [{name: low_rank(layer, 4) for name, layer in layers.items()} for _ in range(3)]
    fitting = prepare_layers(layers, [RowBlock(1, one) for one in worn], room=room * 3 * 8 * 8 * 4)
    x = drawn(3, tokens, 8)
    with fitting.applied():
        expected = [layer(x) for layer in layers.values()]
    # Of a folded layer the weight has been read; the others read it every time.
    for layer in layers.values():
        layer.weight.data = torch.zeros(8, 8)
    with fitting.applied():
        again = [layer(x) for layer in layers.values()]
    assert sum(torch.equal(*both) for both in zip(expected, again, strict=True)) == folded


def test_what_all_wear_is_only_swapped_in() -> None:
    layer = nn.Linear(4, 4)
    changed = drawn(4, 4)
    with prepare_layers(
        {"a": layer}, [RowBlock(2, {"a": changed}), RowBlock(1, {"a": changed})]
    ).applied():
        assert layer.weight.data_ptr() == changed.data_ptr()
        assert "forward" not in vars(layer)


def test_layers_are_themselves_after_an_error() -> None:
    layers = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}
    places = [layer.weight.data_ptr() for layer in layers.values()]
    apart: Mapping[str, Tensor | Factors] = {"a": low_rank(layers["a"], 2), "b": drawn(4, 4)}
    fitting = prepare_layers(layers, [RowBlock(1, apart), RowBlock(1, {"b": apart["b"]})])
    with pytest.raises(RuntimeError, match="out of memory"), fitting.applied():
        assert layers["b"].weight.data_ptr() != places[1] and "forward" in vars(layers["a"])
        raise RuntimeError("out of memory")
    assert [layer.weight.data_ptr() for layer in layers.values()] == places
    assert not any("forward" in vars(layer) for layer in layers.values())


def rows_run(base: Base, shot: Shot) -> tuple[Tensor, list[int]]:
    """A shot's latents, and the rows of every call of the UNet."""
    seen: list[int] = []
    hook = base.unet.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    try:
        return render(base, shot, output="latents"), seen
    finally:
        hook.remove()


def one_by_one(base: Base, shot: Shot) -> tuple[Tensor, list[int]]:
    """The same with a call of the UNet for every mix."""
    kept = cache_of(base)
    kept.most_rows[8, 8] = 1
    try:
        return rows_run(base, shot)
    finally:
        kept.most_rows.clear()


@pytest.mark.parametrize("folding", ["all", "where it is faster"])
@pytest.mark.parametrize("guidance", [5.0, 1.0])
@pytest.mark.parametrize("method", [Composite(), CMLoRA(interval=2)])
def test_a_steps_passes_as_one_batch_are_those_one_by_one(
    sdxl: Base,
    forms: list[Adapter],
    method: object,
    guidance: float,
    folding: str,
    request: pytest.FixtureRequest,
) -> None:
    """All forms side by side: factors, whole weights and layers that only some change."""
    if folding == "all":
        request.getfixturevalue("fold_all")
    before = bits(sdxl)
    pairs = tuple(zip((*forms, forms[0]), (0.8, 1.0, 0.5, -0.4, 0.3), strict=True))
    shot = Shot("a cat", seed=3, steps=2, adapters=pairs, guidance=guidance, method=method)
    together, rows = rows_run(sdxl, shot)
    apart, single = one_by_one(sdxl, shot)
    each = 2 if guidance > 1 else 1
    assert rows[0] == 5 * each and len(single) == 10
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    assert same_bits(sdxl, before)
    assert not any("forward" in vars(module) for module in sdxl.unet.modules())


def test_pictures_of_different_mixes_and_prompts_share_a_batch(
    sdxl: Base, forms: list[Adapter]
) -> None:
    """As a batch of shots is evaluated: other latents, timesteps, texts and adapters in each."""
    asked, alone = [], []
    for seed, adapter in enumerate((forms[0], forms[1], forms[0])):
        shot = resolve(Shot(f"a cat {seed}", seed=seed, adapters=((adapter, 0.8),)), sdxl)
        run = PictureRun(sdxl, shot, steps=1)
        one = run.evaluation(
            Call(Mix((Part(0, 0.8),))), noise(shot.shot), torch.tensor(300 * seed + 100)
        )
        asked.append(one)
        alone += evaluate(sdxl, [one])
    for ours, theirs in zip(evaluate(sdxl, asked), alone, strict=True):
        torch.testing.assert_close(ours.noise, theirs.noise, rtol=1e-4, atol=1e-5)


def test_equal_mixes_are_evaluated_once(sdxl: Base, forms: list[Adapter]) -> None:
    pairs = ((forms[0], 0.8), (forms[1], 1.0), (forms[0], 0.8))
    shot = Shot("a cat", steps=1, adapters=pairs, method=Composite())
    assert rows_run(sdxl, shot)[1] == [4]
    own, plain = Mix((Part(0, 0.8),)), Mix((Part(0, 0.8),), text=())
    apart = dataclasses.replace(shot, method=Asks((own, plain)))
    one = [
        render(sdxl, dataclasses.replace(shot, method=Asks((mix,))), output="latents")
        for mix in (own, plain)
    ]
    assert not torch.allclose(*one, atol=1e-3)
    assert not torch.allclose(render(sdxl, apart, output="latents"), one[0], atol=1e-3)
    assert rows_run(sdxl, apart)[1] == [4]


def test_a_batch_without_memory_is_halved_and_not_tried_again(
    sdxl: Base, forms: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = tuple((adapter, 0.5) for adapter in forms)
    shot = Shot("a cat", steps=2, adapters=pairs, method=Composite())
    expected = one_by_one(sdxl, shot)[0]
    predict, seen = sdxl.predict, []

    def little_memory(latents: Tensor, *given: object, **named: object) -> Tensor:
        seen.append(len(latents))
        if len(latents) > 4:
            raise torch.OutOfMemoryError("no")
        return predict(latents, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(sdxl, "predict", little_memory)
    try:
        found = render(sdxl, shot, output="latents")
    finally:
        cache_of(sdxl).most_rows.clear()
    assert seen == [8, 4, 4, 4, 4]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_deltas_in_training_are_left_on_their_layers(sdxl: Base, forms: list[Adapter]) -> None:
    """A sample drawn during a training goes through its deltas, mix by mix."""
    shot = Shot("a cat", steps=1, adapters=((forms[0], 1.0), (forms[1], 1.0)), method=Composite())
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    delta = LowRank.start(sdxl.layers()[name], 4, alpha=4.0)
    nn.init.normal_(delta.up)
    with attach(sdxl.layers(), {name: delta}):
        attached, rows = rows_run(sdxl, shot)
    assert rows == [2, 2]
    learning = (Adapter(deltas={name: delta}, kind="lora", family="sdxl"), 1.0)
    mixes = tuple(Mix((Part(at, 1.0), Part(2, 1.0))) for at in range(2))
    merged = dataclasses.replace(shot, adapters=(*shot.adapters, learning), method=Asks(mixes))
    torch.testing.assert_close(
        attached, render(sdxl, merged, output="latents"), rtol=1e-4, atol=1e-4
    )
