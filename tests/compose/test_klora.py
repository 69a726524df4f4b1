"""K-LoRA: its choices against the formula layer by layer, and a picture made by hand."""

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import compose.engine.weights.adapter_change
from compose import KLoRA, record, render
from compose.engine.weights.adapter_change import entry_sums
from studio.adapters.adapter import Adapter
from studio.adapters.delta import Dense, Kron, LowRank, Sparse
from studio.bases.base import Base
from studio.errors import BadInput
from studio.requests.shot import Shot
from tests.compose.conftest import ByHand, bits, on_layers, same_bits, small

STEPS = 20
SHAPES = {f"unet.{name}": (24, 8 + 4 * at) for at, name in enumerate("abcdefgh")}
Pairs = Sequence[tuple[Adapter, float]]


def scaled(adapter: Adapter, factors: Sequence[float]) -> Adapter:
    """The adapter with each layer's change multiplied."""
    deltas = {
        name: LowRank(delta.down.detach(), factor * delta.up.detach(), alpha=delta.rank)
        for (name, delta), factor in zip(adapter.deltas.items(), factors, strict=True)
        if isinstance(delta, LowRank)
    }
    return Adapter(deltas=dict(deltas), kind="lora", family="sdxl")


@pytest.fixture(scope="module")
def content() -> Adapter:
    """Ranks 3; layers so unlike in size that some change sides and one is an outlier."""
    made = small(SHAPES, seed=1, rank=3)
    return scaled(made, (1.0, 0.7, 1.4, 1.0, 2.0, 0.5, 12.0, 1.2))


@pytest.fixture(scope="module")
def style() -> Adapter:
    return small(SHAPES, seed=2, rank=4)


def of_content(method: KLoRA, pairs: Pairs, steps: int = STEPS) -> list[set[str]]:
    """The layers that the first adapter has at each step; every other one is the second's."""
    method.check([adapter for adapter, _ in pairs])
    asked = record(method.prepare(on_layers(pairs), steps), steps)
    found = []
    for (call,) in asked:
        one, two = call.mix.parts
        assert [(part.adapter, part.strength) for part in (one, two)] == [
            (at, strength) for at, (_, strength) in enumerate(pairs)
        ]
        assert not (one.layers or set()) & (two.layers or set())
        found.append(set(one.layers or ()))
    return found


def by_formula(
    one: Adapter, two: Adapter, *, k: int, wrapped: bool = False, total: bool = False
) -> list[set[str]]:
    """S_c / gamma > S_s s(t) for layers that both have, every entry sorted in Python."""
    tops, sums = {}, {}
    for name in one.deltas:
        entries = [
            sorted(change.deltas[name].dense(torch.zeros(SHAPES[name])).abs().flatten().tolist())
            for change in (one, two)
        ]
        tops[name] = [sum(values[-k:]) for values in entries]
        sums[name] = [sum(values) for values in entries]
    if total:
        gamma = sum(c for c, _ in sums.values()) / sum(s for _, s in sums.values())
    else:
        ratios = [c / s for c, s in sums.values()]
        mean = sum(ratios) / len(ratios)
        kept = [ratio for ratio in ratios if ratio < 3 * mean]
        assert len(kept) < len(ratios)  # or nothing is seen of leaving out
        gamma = sum(kept) / len(kept)
    found = []
    for step in range(STEPS):
        scale = 1.5 * step / STEPS + 0.5
        if wrapped:
            scale = (1.5 * step / STEPS + 0.85 * 1.5) % 1.5
        found.append({name for name, (c, s) in tops.items() if c / gamma > s * scale})
    return found


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("total", [False, True])
@pytest.mark.parametrize("k", [None, 5, 10**6])
def test_choices_are_the_formulas(
    content: Adapter, style: Adapter, wrapped: bool, total: bool, k: int | None
) -> None:
    method = KLoRA(
        k=k, gamma="total" if total else "layers", pattern="style" if wrapped else "linear"
    )
    expected = by_formula(content, style, k=k or 12, wrapped=wrapped, total=total)
    assert of_content(method, [(content, 1.0), (style, 1.0)]) == expected
    assert len({frozenset(layers) for layers in expected}) > 1  # layers do change sides


def test_early_steps_are_the_contents_and_late_ones_the_styles(
    content: Adapter, style: Adapter
) -> None:
    counts = [len(layers) for layers in of_content(KLoRA(), [(content, 1.0), (style, 1.0)])]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_size_does_not_matter(content: Adapter, style: Adapter) -> None:
    """Neither a strength nor the factors' own scale: gamma takes them out."""
    plain = of_content(KLoRA(), [(content, 1.0), (style, 1.0)])
    assert of_content(KLoRA(), [(content, 0.3), (style, 1.7)]) == plain
    larger = scaled(content, [8.0] * len(SHAPES))
    assert of_content(KLoRA(), [(larger, 1.0), (style, 1.0)]) == plain


def test_factors_count_only_by_their_product(content: Adapter, style: Adapter) -> None:
    turned = Adapter(deltas={}, kind="lora", family="sdxl")
    for name, delta in content.deltas.items():
        assert isinstance(delta, LowRank)
        turn = torch.linalg.qr(torch.randn(3, 3))[0]
        down, up = turn.T @ delta.down.detach(), delta.up.detach() @ turn
        turned.deltas[name] = LowRank(down, up, alpha=3)
    expected = of_content(KLoRA(), [(content, 1.0), (style, 1.0)])
    assert of_content(KLoRA(), [(turned, 1.0), (style, 1.0)]) == expected


@pytest.mark.parametrize("steps", [1, 7, 50])
def test_progress_is_the_share_of_the_steps(content: Adapter, style: Adapter, steps: int) -> None:
    method, found = KLoRA(), of_content(KLoRA(), [(content, 1.0), (style, 1.0)], steps)
    assert len(found) == steps
    twice = of_content(method, [(content, 1.0), (style, 1.0)], 2 * steps)
    assert twice[::2] == found


def test_layers_of_one_alone_are_that_ones(content: Adapter, style: Adapter) -> None:
    names = list(SHAPES)
    one = dataclasses.replace(content, deltas={n: content.deltas[n] for n in names[:6]})
    two = dataclasses.replace(style, deltas={n: style.deltas[n] for n in names[2:]})
    asked = record(KLoRA().prepare(on_layers([(one, 1.0), (two, 1.0)]), STEPS), STEPS)
    for (call,) in asked:
        first, second = (part.layers or frozenset() for part in call.mix.parts)
        assert set(names[:2]) <= first <= set(names[:6])
        assert set(names[6:]) <= second <= set(names[2:])
        assert first | second == set(names)
    both = set(names[2:6])
    shared = [dataclasses.replace(a, deltas={n: a.deltas[n] for n in both}) for a in (one, two)]
    expected = of_content(KLoRA(), [(shared[0], 1.0), (shared[1], 1.0)])
    assert [set(c.mix.parts[0].layers or ()) & both for (c,) in asked] == expected


def test_text_encoders_layers_are_chosen_between_once_at_s_1() -> None:
    shapes = {f"text_encoder.{at}": (16, 8) for at in range(8)}
    one, two = (small(shapes, seed=seed, rank=3) for seed in (1, 2))
    sizes = {
        name: [(a.deltas[name].up @ a.deltas[name].down).detach().abs() for a in (one, two)]  # type: ignore
        for name in shapes
    }
    gamma = sum(float(c.sum() / s.sum()) for c, s in sizes.values()) / len(sizes)
    tops = {
        name: [float(size.flatten().sort().values[-9:].sum()) for size in pair]
        for name, pair in sizes.items()
    }
    expected = {name for name, (c, s) in tops.items() if c / gamma > s}
    assert 0 < len(expected) < len(shapes)
    assert of_content(KLoRA(), [(one, 1.0), (two, 1.0)]) == [expected] * STEPS


@pytest.mark.parametrize("absent", [0, 1])
def test_strength_zero_is_no_adapter(content: Adapter, style: Adapter, absent: int) -> None:
    pairs = [(content, 1.0), (style, 1.0)]
    pairs[absent] = pairs[absent][0], 0.0
    for (call,) in record(KLoRA().prepare(on_layers(pairs), STEPS), STEPS):
        assert call.mix.parts[1 - absent].layers == set(SHAPES)


def test_a_form_without_a_rank_counts_64_entries() -> None:
    generator = torch.Generator().manual_seed(3)
    shape, name = (24, 16), "unet.a"
    lora = small({name: shape}, seed=4, rank=2).deltas[name]
    kron = Kron(torch.randn(4, 4, generator=generator), torch.randn(6, 4, generator=generator))
    index = torch.randperm(384, generator=generator)[:100]
    sparse = Sparse(index, torch.randn(100, generator=generator), shape)
    dense = Dense(torch.randn(shape, generator=generator))
    for other in (kron, sparse, dense):
        for pair in ((lora, other), (other, lora)):
            adapters = [Adapter(deltas={name: delta}, kind="", family="sdxl") for delta in pair]
            pairs = [(adapter, 1.0) for adapter in adapters]
            assert of_content(KLoRA(), pairs) == of_content(KLoRA(k=64), pairs)
            sizes = [delta.dense(torch.zeros(shape)).detach().abs().flatten() for delta in pair]
            gamma = float(sizes[0].sum() / sizes[1].sum())
            tops = [float(size.sort().values[-64:].sum()) for size in sizes]
            expected = [tops[0] / gamma > tops[1] * (1.5 * i / STEPS + 0.5) for i in range(STEPS)]
            assert [bool(layers) for layers in of_content(KLoRA(), pairs)] == expected


def test_several_adapters_of_a_role_count_as_their_sum(content: Adapter, style: Adapter) -> None:
    """Halves of one adapter's factors choose as the whole does, and are worn together."""
    halves = []
    for rows in (slice(0, 1), slice(1, 3)):
        deltas = {
            name: LowRank(
                d.down.detach()[rows], d.up.detach()[:, rows], alpha=d.down[rows].shape[0]
            )
            for name, d in content.deltas.items()
            if isinstance(d, LowRank)
        }
        halves.append(Adapter(deltas=dict(deltas), kind="lora", family="sdxl"))
    method = KLoRA(style=(2,))
    pairs = [(halves[0], 1.0), (style, 1.0), (halves[1], 1.0)]
    method.check([adapter for adapter, _ in pairs])
    asked = record(method.prepare(on_layers(pairs), STEPS), STEPS)
    parts = [{part.adapter: part.layers for part in call.mix.parts} for (call,) in asked]
    assert all(of[0] == of[2] for of in parts)
    expected = of_content(KLoRA(), [(content, 1.0), (style, 1.0)])
    assert [set(of[0] or ()) for of in parts] == expected


def test_impossible_roles_are_refused() -> None:
    three = [small({"unet.a": (4, 6)}, seed=at) for at in range(3)]
    for method, said in (
        (KLoRA(), "which of the 3 adapters are the style"),
        (KLoRA(style=(4,)), "style: there is no adapter 4"),
        (KLoRA(content=(1,), style=(2,)), "adapter 3 is to be content or style, not neither"),
        (KLoRA(content=(1, 2), style=(2, 3)), "adapter 2 is to be content or style, not both"),
        (KLoRA(style=(2,), pattern="style", alpha=0.0), "alpha: 0 is not above 0"),
    ):
        with pytest.raises(BadInput, match=said):
            method.check(three)
    KLoRA(content=(3,)).check(three)
    KLoRA().check(three[:2])
    KLoRA().check([])


def test_picture_is_that_of_weights_changed_by_hand(sdxl: Base, forms: list[Adapter]) -> None:
    """Every pair of neighbouring forms, with the roles the other way round; text at s = 1."""
    before = bits(sdxl)
    for start in range(3):
        pair = forms[start : start + 2]
        shot = Shot("a sks cat", seed=2, steps=2, adapters=((pair[0], 0.8), (pair[1], -0.6)))
        chosen = []
        for step in range(2):
            chosen.append(at_step(sdxl, pair[1], pair[0], step / 2))
        hand = ByHand(sdxl, shot)

        def predict(step: int, hand: ByHand = hand, chosen: list = chosen) -> Tensor:
            first, second = hand.shot.adapters
            return hand.eps([(*second, chosen[step][0]), (*first, chosen[step][1])])

        ours = dataclasses.replace(shot, method=KLoRA(content=(2,)))
        torch.testing.assert_close(
            render(sdxl, ours, output="latents"), hand.run(predict), rtol=1e-4, atol=1e-4
        )
    assert same_bits(sdxl, before)


def at_step(base: Base, content: Adapter, style: Adapter, done: float) -> tuple[set, set]:
    """The layers of the content and of the style."""
    both = {name for name in content.deltas if name in style.deltas}
    layers, sizes = base.layers_and_norms(), {}
    for name in both:
        pair = (content.deltas[name], style.deltas[name])
        weight = layers[name].weight.detach()  # type: ignore[union-attr]
        sizes[name] = [delta.dense(weight).detach().abs().flatten() for delta in pair]
    ratios = [float(c.sum() / s.sum()) for c, s in sizes.values() if c.any() and s.any()]
    usual = [r for r in ratios if r < 3 * sum(ratios) / len(ratios)]
    gamma = sum(usual) / len(usual) if usual else 1.0  # Sparse and Dense here share no weight
    taken = set()
    for name, (c, s) in sizes.items():
        tops = [float(one.sort(descending=True).values[:64].sum()) for one in (c, s)]
        if tops[0] / gamma > tops[1] * (1.5 * done + 0.5):
            taken.add(name)
    return set(content.deltas) - both | taken, set(style.deltas) - taken


def test_choices_are_made_once_for_many_pictures(
    sdxl: Base, forms: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    shot = Shot("a cat", steps=2, adapters=((forms[0], 1.0), (forms[1], 1.0)), method=KLoRA())
    first = render(sdxl, shot, output="latents")
    with monkeypatch.context() as still:
        still.setattr(KLoRA, "prepare", None)  # not to be called again
        render(sdxl, dataclasses.replace(shot, seed=1), output="latents")
        assert torch.equal(render(sdxl, shot, output="latents"), first)
        with pytest.raises(TypeError):
            render(sdxl, dataclasses.replace(shot, steps=3), output="latents")


def test_entries_are_sorted_once_for_all_strengths_and_steps(
    sdxl: Base, forms: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (dataclasses.replace(adapter) for adapter in forms[:2])
    shot = Shot("a cat", steps=2, adapters=((one, 1.0), (two, 1.0)), method=KLoRA())
    render(sdxl, shot, output="latents")
    slid = dataclasses.replace(shot, steps=3, adapters=((one, 0.3), (two, -1.7)))
    with monkeypatch.context() as still:
        still.setattr(compose.engine.weights.adapter_change, "entry_sums", None)
        found = render(sdxl, slid, output="latents")
        with pytest.raises(TypeError):
            render(sdxl, dataclasses.replace(slid, method=KLoRA(k=7)), output="latents")
    fresh = tuple((dataclasses.replace(adapter), part) for adapter, part in slid.adapters)  # type: ignore[type-var]
    anew = render(sdxl, dataclasses.replace(slid, adapters=fresh), output="latents")
    assert torch.equal(anew, found)


def test_one_adapter_or_equal_ones_are_merge(sdxl: Base, forms: list[Adapter]) -> None:
    """Text encoders too."""
    plain = Shot("a cat", steps=2, adapters=((forms[0], 0.8),))
    expected = render(sdxl, plain, output="latents")
    for pairs in (plain.adapters, plain.adapters * 2):
        shot = dataclasses.replace(plain, adapters=pairs, method=KLoRA())
        assert torch.equal(render(sdxl, shot, output="latents"), expected)


@pytest.mark.parametrize(
    ("shape", "k"),
    [((640, 320), 64), ((64, 32, 3, 3), 256), ((7, 11), 5), ((7, 11), 200), ((9,), 1)],
)
@pytest.mark.parametrize("ties", [False, True])
def test_the_largest_entries_are_those_of_all_sorted(
    shape: tuple[int, ...], k: int, ties: bool
) -> None:
    change = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if ties:
        change = change.round()
    entries = sorted(change.abs().flatten().double().tolist(), reverse=True)
    top, whole = entry_sums(change, k).tolist()
    assert top == pytest.approx(sum(entries[:k]), rel=1e-12)
    assert whole == pytest.approx(sum(entries), rel=1e-6)


def test_large_changes_are_cut_into_pieces() -> None:
    """A few of which are sorted; all of the entries lie in one piece at worst."""
    change = torch.rand(1280, 1280, generator=torch.Generator().manual_seed(0))
    change[3, :300] += 1
    top, _ = entry_sums(change, 256).tolist()
    assert top == pytest.approx(change.flatten().sort().values[-256:].double().sum().item())
