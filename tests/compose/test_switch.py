"""LoRA Switch: whose turn it is, and a picture against weights changed by hand."""

import dataclasses

import pytest
import torch

from compose import Mix, Part, Switch, method_named, record, render, schedule
from compose.engine.texts.trigger_effects import trigger_effects
from studio.adapters.adapter import Adapter
from studio.bases.base import Base
from studio.bases.prompts import PromptReading
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


def test_turns_may_be_unequal() -> None:
    assert turns(Switch(turns=(3, 1, 2)), 8) == [0, 0, 0, 1, 2, 2, 0, 0]
    assert turns(Switch(order=(2, 1, 2, 3), turns=(1, 2, 1, 1)), 6) == [1, 0, 0, 1, 2, 1]
    assert turns(Switch(turns=(4, 4, 4)), 23) == turns(Switch(4), 23)


@pytest.mark.parametrize("effects", [(0.1, 0.1, 0.1), (0.5, 0.3, 0.2), (0.9, 0.1, 0.0), (0, 0, 0)])
def test_steps_of_a_round_are_dealt_out_by_effect(effects: tuple[float, ...]) -> None:
    weighed = Switch(5, weigh="trigger").weighed(effects)
    assert sum(weighed.turns) == 15 and min(weighed.turns) >= 1
    assert list(weighed.turns) == sorted(weighed.turns, reverse=True)  # as the effects are
    if len(set(effects)) == 1:
        assert turns(weighed, 40) == turns(Switch(5), 40)
    assert Switch(5).weighed((0.5, 0.3, 0.2)).turns == (7, 5, 3)  # 1 + 12 x share, rounded


def test_effects_are_those_of_leaving_the_trigger_out(sdxl: Base) -> None:
    """Against the distance of embeddings written out; and a picture is that of the turns found."""
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    shape = {layer: tuple(sdxl.layers()[layer].weight.shape)}  # type: ignore[union-attr]
    pair = [
        dataclasses.replace(small(shape, seed=at), triggers=(word,))
        for at, word in enumerate(("sks robot", "ink"))
    ]
    shot = Shot("a SKS robot, (ink:1.1) style", steps=6, adapters=tuple((one, 0.1) for one in pair))
    found = trigger_effects(sdxl, shot, pair)
    texts = [shot.prompt, "a , (ink:1.1) style", "a SKS robot, (:1.1) style"]
    with torch.no_grad():
        whole, *others = sdxl.encode_text(texts, reading=PromptReading("a1111")).hidden.mean(1)
    cosines = [whole @ one / whole.norm() / one.norm() for one in others]
    torch.testing.assert_close(torch.tensor(found), 1 - torch.stack(cosines))
    latents = []
    for method in (Switch(3, weigh="trigger"), Switch(turns=Switch(3).weighed(found).turns)):
        drawn = dataclasses.replace(shot, method=method)
        latents.append(render(sdxl, drawn, output="latents"))
        assert len(schedule(drawn, sdxl).steps) == 6
    assert torch.equal(*latents)
    with pytest.raises(BadInput, match="does not say the trigger words of small 1, 'ink'"):
        trigger_effects(sdxl, dataclasses.replace(shot, prompt="sks robot, pink"), pair)
    with pytest.raises(BadInput, match="known only with a base"):
        schedule(dataclasses.replace(shot, method=Switch(weigh="trigger")))


def test_the_prediction_is_the_evaluation_itself() -> None:
    answer = torch.full((1, 4, 2, 2), 7.0)
    plan = Switch().prepare(on_layers([(small(LAYER, seed=1), 1.0)]), 3)
    assert plan.predict(2, lambda mix, reuse=None: answer) is answer


def test_no_adapter_is_the_plain_base() -> None:
    assert {call.mix for (call,) in record(Switch().prepare([], 3), 3)} == {Mix(())}


def test_impossible_options_are_refused() -> None:
    three = [small(LAYER, seed=at) for at in range(3)]
    for method, said in (
        (Switch(order=(1, 2, 4)), "order: there is no adapter 4; they are counted from 1 to 3"),
        (Switch(order=(0, 1, 2)), "order: there is no adapter 0"),
        (Switch(order=(1, 3)), "order: adapter 2 has no turn"),
        (Switch(turns=(1, 2)), "turns: 2 are given, and there are 3 turns"),
        (Switch(weigh="trigger", turns=(1, 2, 3)), "leave turns and order out"),
    ):
        with pytest.raises(BadInput, match=said):
            method.check(three)
    with pytest.raises(
        BadInput, match="interval must be a whole number of at least 1; it is 'five'"
    ):
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
