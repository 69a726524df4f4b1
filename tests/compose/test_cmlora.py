"""CMLoRA: turns, weights and reuse against the paper's rules, and a picture made by hand."""

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from compose import Call, CMLoRA, Composite, Mix, Part, profiled, record, render
from compose.engine.detail_profile import sharpness
from studio.adapters.adapter import Adapter
from studio.bases.base import Base
from studio.errors import BadInput
from studio.requests.shot import Shot
from tests.benchmarks.composition import drift
from tests.compose.conftest import ByHand, bits, on_layers, same_bits, small

LAYER = {"unet.a": (4, 6)}
STRENGTHS = (0.8, 1.0, -0.5, 0.7, 0.6)


def asked(method: CMLoRA, steps: int, count: int = 3) -> list[list[Call]]:
    """The evaluations of each step; every adapter has one, in order, and may reuse its own."""
    pairs = [(small(LAYER, seed=at), STRENGTHS[at]) for at in range(count)]
    method.check([adapter for adapter, _ in pairs])
    calls = record(method.prepare(on_layers(pairs), steps), steps)
    for step in calls:
        assert [call.mix for call in step] == [
            Mix((Part(at, STRENGTHS[at]),)) for at in range(count)
        ]
        assert all(call.reuse in (None, call.mix) for call in step)
    return calls


def fresh(calls: Sequence[Sequence[Call]]) -> list[list[int]]:
    """The adapters evaluated in full at each step."""
    return [[at for at, call in enumerate(step) if call.reuse is None] for step in calls]


def weights(method: CMLoRA, steps: int, count: int = 3) -> Tensor:
    """What each adapter's prediction counts, [steps, count]: adapter j predicts the j-th unit."""
    pairs = [(small(LAYER, seed=at), STRENGTHS[at]) for at in range(count)]
    plan = method.prepare(on_layers(pairs), steps)

    def eps(mix: Mix, reuse: Mix | None = None) -> Tensor:
        return torch.eye(count)[mix.parts[0].adapter].view(1, 1, 1, count)

    return torch.stack([plan.predict(step, eps).flatten() for step in range(steps)])


def leaders(method: CMLoRA, steps: int, count: int = 3) -> list[int]:
    return weights(method, steps, count).argmax(1).tolist()


def test_refresh_steps_are_the_papers() -> None:
    """92 of 220: every 2nd, from 0.375 of them every 3rd, from 0.875 every 2nd again."""
    paper = {*range(0, 82, 2), *range(82, 192, 3), *range(192, 220, 2)}
    found = fresh(asked(CMLoRA(), 220))
    assert {step for step, full in enumerate(found) if full} == paper
    assert len(paper) == 92


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 25])
@pytest.mark.parametrize("interval", [0, 2, 3, 50])
def test_one_adapter_is_renewed_at_a_turn_and_all_at_the_first(steps: int, interval: int) -> None:
    found = fresh(asked(CMLoRA(interval=interval), steps))
    assert found[0] == [0, 1, 2]
    full = [who for who in found[1:] if who]
    assert full == [[turn % 3] for turn in range(1, len(full) + 1)]
    if interval:
        assert [step for step, who in enumerate(found) if who] == list(range(0, steps, interval))


@pytest.mark.parametrize("method", [CMLoRA(interval=1), CMLoRA(cache=False)])
def test_interval_of_one_or_no_cache_evaluates_all_in_full(method: CMLoRA) -> None:
    assert fresh(asked(method, 9)) == [[0, 1, 2]] * 9


def test_one_adapter_alone_is_evaluated_in_full_and_counts_fully() -> None:
    assert fresh(asked(CMLoRA(), 9, count=1)) == [[0]] * 9
    assert torch.equal(weights(CMLoRA(), 9, count=1), torch.ones(9, 1))


@pytest.mark.parametrize(
    ("count", "lead", "other"),
    [(2, 0.6, 0.4), (3, 0.556, 0.222), (4, 0.538, 0.154), (5, 0.529, 0.118)],
)
def test_weights_are_the_papers(count: int, lead: float, other: float) -> None:
    for row in weights(CMLoRA(), 30, count):
        rounded = sorted(round(float(one), 3) for one in row)
        assert rounded == [other] * (count - 1) + [lead]
        assert float(row.sum()) == pytest.approx(1)


def test_equal_weights_in_full_are_composite() -> None:
    pairs = [(small(LAYER, seed=at), STRENGTHS[at]) for at in range(3)]
    answers = torch.randn(3, 1, 4, 2, 2)
    plans = [
        method.prepare(on_layers(pairs), 4) for method in (CMLoRA(interval=1, lead=1), Composite())
    ]
    ours, theirs = (
        plan.predict(2, lambda mix, reuse=None: answers[mix.parts[0].adapter]) for plan in plans
    )
    torch.testing.assert_close(ours, theirs)


def test_decay_lessens_the_lead_at_each_turn_down_to_equality() -> None:
    method = CMLoRA(interval=2, decay=0.5)
    for step, row in enumerate(weights(method, 12, count=2)):
        lead = max(1.0, 1.5 - sum(0.5**turn for turn in range(1, step // 2 + 1)))
        assert float(row.max()) == pytest.approx(lead / (lead + 1))
    rows = weights(method, 12, count=5)
    ratios = [float(row.max() / row.min()) for row in rows]
    assert ratios[::2] == pytest.approx([4.5, 4.0, 3.75, 3.625, 3.5625, 3.53125])


def test_all_lead_in_turn_where_none_is_of_low_frequency() -> None:
    assert leaders(CMLoRA(interval=2), 9) == [0, 0, 1, 1, 2, 2, 0, 0, 1]
    assert leaders(CMLoRA(interval=2, order=(3, 1, 2)), 7) == [2, 2, 0, 0, 1, 1, 2]


def test_low_frequency_leads_after_the_split_and_all_are_renewed_in_both_phases() -> None:
    method = CMLoRA(interval=1, low=(2,), split=0.5)
    # The second has its turns, but the one before it goes on leading.
    assert leaders(method, 12) == [0, 0, 2, 0, 0, 2, 0] + [1] * 5
    paced = dataclasses.replace(method, interval=2)
    full = [who for who in fresh(asked(paced, 24))[1:] if who]
    assert full == [[turn % 3] for turn in range(1, 12)]
    assert leaders(paced, 24) == [0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 2, 2, 0] + [1] * 11


def test_the_split_is_a_share_of_the_steps() -> None:
    for steps in (11, 22, 220):
        late = leaders(CMLoRA(low=(3,)), steps).index(2)
        assert late == steps * 120 // 220 + 1


def test_two_of_low_frequency_share_the_end() -> None:
    found = leaders(CMLoRA(interval=1, low=(1, 3), split=0.5), 13, count=4)
    assert set(found[:7]) == {1, 3} and set(found[7:]) == {0, 2}
    assert set(leaders(CMLoRA(low=(1, 2, 3)), 30)) == {0, 1, 2}  # nobody else is there to lead


def test_profiles_order_the_adapters_unless_given() -> None:
    rises = (0.1, -0.2, 0.3)
    adapters = [
        dataclasses.replace(small(LAYER, seed=at), recipe={"frequency_rise": rise})
        for at, rise in enumerate(rises)
    ]

    def led(method: CMLoRA, of: Sequence[Adapter]) -> list[int]:
        plan = method.prepare(on_layers([(one, 1.0) for one in of]), 12)

        def eps(mix: Mix, reuse: Mix | None = None) -> Tensor:
            return torch.eye(3)[mix.parts[0].adapter].view(1, 1, 1, 3)

        return [int(plan.predict(step, eps).argmax()) for step in range(12)]

    method = CMLoRA(interval=1, split=0.5)
    given = dataclasses.replace(method, order=(3, 1, 2), low=(2,))
    assert led(method, adapters) == led(given, adapters)
    assert led(dataclasses.replace(method, low=(1,)), adapters)[7:] == [0] * 5
    unknown = [*adapters[:2], small(LAYER, seed=2)]
    assert led(method, unknown) == [0, 1, 2] * 4


def test_sharpness_is_of_what_lies_above_the_cut_at_any_size() -> None:
    for height, width in ((8, 8), (64, 64), (96, 128), (2, 2)):
        noise = torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(1))
        assert torch.tensor(sharpness(noise)).isfinite()
        assert sharpness(3 * noise) == pytest.approx(sharpness(noise) + 1.0986, abs=1e-3)
    row = torch.arange(40.0)
    for cycles, above in ((3, False), (5, True)):  # of 20, Nyquist's; the cut is 4
        wave = torch.cos(2 * torch.pi * cycles * row / 40).expand(1, 1, 40, 40)
        assert (sharpness(wave) > 0) == above


def test_profile_is_the_rise_over_the_base(sdxl: Base, forms: list[Adapter]) -> None:
    adapter = dataclasses.replace(forms[1], triggers=("a sks cat",), recipe={"steps": 4})
    known = profiled(sdxl, adapter, steps=2, pictures=1)
    plain = Shot("a sks cat", steps=2)
    worn = dataclasses.replace(plain, adapters=((adapter, 1.0),))
    with_it, without = (sharpness(render(sdxl, shot, output="latents")) for shot in (worn, plain))
    assert known.recipe == {"steps": 4, "frequency_rise": pytest.approx(with_it - without)}
    assert "frequency_rise" not in adapter.recipe and with_it != without


def test_impossible_options_are_refused() -> None:
    three = [small(LAYER, seed=at) for at in range(3)]
    for method, said in (
        (CMLoRA(order=(1, 2)), "order: every adapter from 1 to 3"),
        (CMLoRA(order=(1, 2, 2)), "order: every adapter from 1 to 3"),
        (CMLoRA(low=(4,)), "low: there is no adapter 4"),
    ):
        with pytest.raises(BadInput, match=said):
            method.check(three)


@pytest.mark.parametrize("interval", [1, 2])
def test_picture_is_that_of_weights_changed_by_hand(
    sdxl: Base, forms: list[Adapter], interval: int
) -> None:
    """Three forms; reused features are put into a full evaluation, in place of its own."""
    before = bits(sdxl)
    pairs = tuple(zip((forms[1], forms[0], forms[2]), (0.8, 1.0, -0.4), strict=True))
    shot = Shot("a sks cat", seed=2, steps=3, adapters=pairs)
    hand = ByHand(sdxl, shot)
    deep: dict[int, Tensor] = {}

    def predict(step: int) -> Tensor:
        leader, total = step // interval % 3, torch.zeros(1, 4, 8, 8)
        for at, (adapter, strength) in enumerate(pairs):
            renewed = interval == 1 or step == 0 or (step == 2 and at == 1)
            one = hand.eps([(adapter, strength, None)], None if renewed else deep[at])
            deep[at] = hand.deep
            total += (2.5 if at == leader else 1.0) / (2.5 + 2) * one
        return total

    ours = dataclasses.replace(shot, method=CMLoRA(interval=interval))
    expected = hand.run(predict)
    # Random weights make the last bits a hundredfold at every step.
    torch.testing.assert_close(render(sdxl, ours, output="latents"), expected, rtol=1e-3, atol=1e-3)
    assert same_bits(sdxl, before)


def test_caching_shows_and_spares_the_deep_blocks(sdxl: Base, forms: list[Adapter]) -> None:
    pairs = ((forms[1], 1.0), (forms[2], 1.0))
    shot = Shot("a cat", steps=4, adapters=pairs, method=CMLoRA(interval=2))
    runs: list[int] = []
    deep = sdxl.unet.mid_block.resnets[0].register_forward_hook(
        lambda _, given, __: runs.append(len(given[0]) // 2)
    )
    try:
        cached = render(sdxl, shot, output="latents")
        assert runs == [2, 1]  # both at the first step, one at the third
        runs.clear()
        full = render(
            sdxl,
            dataclasses.replace(shot, method=CMLoRA(interval=2, cache=False)),
            output="latents",
        )
        assert runs == [2] * 4
    finally:
        deep.remove()
    assert not torch.allclose(cached, full, atol=1e-3)


def test_reuse_at_an_interval_of_1_costs_nothing(sdxl: Base) -> None:
    assert drift(sdxl, steps=4, seeds=1, intervals=(1,))[1] == 0  # the same latents bit for bit


def test_what_reuse_costs_grows_with_the_interval(sketch: Base) -> None:
    """On a trained base, whose deep features change slowly as those of random weights do not."""
    away = drift(sketch, steps=16, seeds=1, intervals=(2, 4))
    assert 0.02 < away[2] < 0.8 * away[4]
