"""LoRA Switch: whose turn it is, and a picture against weights changed by hand."""

import dataclasses

import pytest
import torch

from compose import Mix, Part, Switch, method_named, record, render
from studio.adapters.adapter import Adapter
from studio.bases.base import Base
from studio.errors import BadInput
from studio.requests.shot import Shot
from tests.compose.conftest import ByHand, bits, on_layers, same_bits, small

STRENGTHS = (0.8, 1.0, -0.5)
LAYER = {"unet.a": (4, 6)}


def turns(method: Switch, steps: int, count: int = 3) -> list[int]:
    """The place of the one adapter that each step is evaluated with."""
    pairs = [(small(LAYER, seed=at), STRENGTHS[at]) for at in range(count)]
    method.check([adapter for adapter, _ in pairs])
    asked = record(method.prepare(on_layers(pairs), steps), steps)
    for (call,) in asked:
        (part,) = call.mix.parts
        assert part == Part(part.adapter, STRENGTHS[part.adapter])
        assert call.reuse is None and call.mix.text is None
    return [call.mix.parts[0].adapter for (call,) in asked]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("interval", [1, 2, 5, 40])
def test_turns_are_the_papers(interval: int, count: int) -> None:
    steps = 23
    paper = [((t - 1) % (count * interval)) // interval + 1 for t in range(1, steps + 1)]
    assert turns(Switch(interval), steps, count) == [active - 1 for active in paper]


def test_order_may_be_another_and_repeat_an_adapter() -> None:
    assert turns(Switch(2, order=(3, 1, 2)), 7) == [2, 2, 0, 0, 1, 1, 2]
    assert turns(Switch(1, order=(1, 2, 1, 3)), 6) == [0, 1, 0, 2, 0, 1]


def test_the_prediction_is_the_evaluation_itself() -> None:
    answer = torch.full((1, 4, 2, 2), 7.0)
    plan = Switch().prepare(on_layers([(small(LAYER, seed=1), 1.0)]), 3)
    assert plan.predict(2, lambda mix, reuse=None: answer) is answer


def test_no_adapter_is_the_plain_base() -> None:
    assert {call.mix for (call,) in record(Switch().prepare([], 3), 3)} == {Mix(())}


def test_impossible_options_are_refused() -> None:
    three = [small(LAYER, seed=at) for at in range(3)]
    for method, said in (
        (Switch(0), "interval: 0"),
        (Switch(order=(1, 2, 4)), "order: there is no adapter 4; they are counted from 1 to 3"),
        (Switch(order=(0, 1, 2)), "order: there is no adapter 0"),
        (Switch(order=(1, 3)), "order: adapter 2 has no turn"),
    ):
        with pytest.raises(BadInput, match=said):
            method.check(three)
    with pytest.raises(BadInput, match="interval must be a whole number; it is 'five'"):
        method_named("switch", {"interval": "five"})
    assert method_named("switch", {"order": [2, 1]}) == Switch(order=(2, 1))


def test_picture_is_that_of_weights_changed_by_hand(sdxl: Base, forms: list[Adapter]) -> None:
    """Every form, each with its own text."""
    before = bits(sdxl)
    for start in (0, 2):
        pair = forms[start : start + 2]
        shot = Shot("a sks cat", seed=2, steps=2, adapters=((pair[0], 0.8), (pair[1], -0.6)))
        hand = ByHand(sdxl, shot)
        expected = hand.run(lambda step, hand=hand: hand.eps([(*hand.shot.adapters[step], None)]))
        ours = dataclasses.replace(shot, method=Switch(1))
        torch.testing.assert_close(
            render(sdxl, ours, output="latents"), expected, rtol=1e-4, atol=1e-4
        )
    assert same_bits(sdxl, before)


def test_one_adapter_or_equal_ones_are_merge(sdxl: Base, forms: list[Adapter]) -> None:
    lora = forms[0]
    plain = Shot("a cat", steps=3, adapters=((lora, 0.8),))
    expected = render(sdxl, plain, output="latents")
    for pairs in (plain.adapters, plain.adapters * 2):
        shot = dataclasses.replace(plain, adapters=pairs, method=Switch(2))
        assert torch.equal(render(sdxl, shot, output="latents"), expected)
