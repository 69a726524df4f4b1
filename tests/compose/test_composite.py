"""LoRA Composite: the mean of passes, and a picture against weights changed by hand."""

import dataclasses

import pytest
import torch
from torch import Tensor

from compose import Composite, Mix, Part, record, render
from studio.adapters.adapter import Adapter
from studio.bases.base import Base
from studio.errors import BadInput
from studio.requests.shot import Shot
from tests.compose.conftest import ByHand, bits, on_layers, same_bits, small

LAYER = {"unet.a": (4, 6)}
PAIRS = [(small(LAYER, seed=at), strength) for at, strength in enumerate((0.8, 1.0, -0.5))]


def test_every_step_is_one_evaluation_of_each_adapter() -> None:
    asked = record(Composite().prepare(on_layers(PAIRS), 4), 4)
    alone = [Mix((Part(0, 0.8),)), Mix((Part(1, 1.0),)), Mix((Part(2, -0.5),))]
    assert [[call.mix for call in step] for step in asked] == [alone] * 4
    assert all(call.reuse is None for step in asked for call in step)


def test_shared_text_is_the_sum_of_all_in_every_pass() -> None:
    ((first, *others),) = record(Composite(shared_text=True).prepare(on_layers(PAIRS), 1), 1)
    assert first.mix.parts == (Part(0, 0.8),)
    assert {call.mix.text for call in (first, *others)} == {
        (Part(0, 0.8), Part(1, 1.0), Part(2, -0.5))
    }


def test_prediction_is_the_mean() -> None:
    answers = torch.randn(3, 1, 4, 2, 2)

    def eps(mix: Mix, reuse: Mix | None = None) -> Tensor:
        return answers[mix.parts[0].adapter]

    predicted = Composite().prepare(on_layers(PAIRS), 1).predict(0, eps)
    torch.testing.assert_close(predicted, answers.mean(0))


def test_the_mean_may_be_weighted() -> None:
    answers = torch.randn(3, 1, 4, 2, 2)

    def predicted(method: Composite) -> Tensor:
        plan = method.prepare(on_layers(PAIRS), 1)
        return plan.predict(0, lambda mix, reuse=None: answers[mix.parts[0].adapter])  # type: ignore[arg-type]

    one, two, three = answers
    torch.testing.assert_close(predicted(Composite(weights=(2, 1, 0))), (2 * one + two) / 3)
    weighed = Composite(weigh="trigger").weighed((0.6, 0.3, 0.1))
    torch.testing.assert_close(predicted(weighed), 0.6 * one + 0.3 * two + 0.1 * three)
    assert torch.equal(predicted(Composite(weights=(3, 3, 3))), predicted(Composite()))
    nothing = Composite(weigh="trigger").weighed((0.0, 0.0, 0.0))  # as of words that are cut off
    assert torch.equal(predicted(nothing), predicted(Composite()))
    for weights, said in (
        ((1, 2), "weights: 2 are given, and there are 3 adapters"),
        ((0, 0, 0), "give one above 0"),
    ):
        with pytest.raises(BadInput, match=said):
            Composite(weights=weights).check([one for one, _ in PAIRS])


def test_no_adapter_is_the_plain_base() -> None:
    assert [call.mix for (call,) in record(Composite().prepare([], 2), 2)] == [Mix(())] * 2


@pytest.mark.parametrize("shared", [False, True])
def test_picture_is_that_of_weights_changed_by_hand(
    sdxl: Base, forms: list[Adapter], shared: bool
) -> None:
    """Every form at once, each with its own text or all with the LoRA's, the only one there."""
    before = bits(sdxl)
    lora = forms[0]
    texts = [name for name in lora.deltas if not name.startswith("unet.")]
    pairs = tuple(zip(forms, (0.8, 1.0, 0.5, -0.4), strict=True))
    shot = Shot("a sks cat", seed=2, steps=2, adapters=pairs)
    hand = ByHand(sdxl, shot)

    def mean(step: int) -> Tensor:
        extra = [(lora, 0.8, texts)] if shared else []
        worn = [
            [(adapter, strength, None)] + (extra if adapter is not lora else [])
            for adapter, strength in pairs
        ]
        return torch.stack([hand.eps(one) for one in worn]).mean(0)

    ours = dataclasses.replace(shot, method=Composite(shared))
    torch.testing.assert_close(
        render(sdxl, ours, output="latents"), hand.run(mean), rtol=1e-4, atol=1e-4
    )
    assert same_bits(sdxl, before)


def test_without_guidance_it_is_still_the_mean(sdxl: Base, forms: list[Adapter]) -> None:
    pairs = ((forms[1], 1.0), (forms[2], 1.0))
    shot = Shot("a cat", steps=1, guidance=1.0, scheduler="ddim", adapters=pairs)
    both = render(sdxl, dataclasses.replace(shot, method=Composite()), output="latents")
    alone = [
        render(sdxl, dataclasses.replace(shot, adapters=(pair,)), output="latents")
        for pair in pairs
    ]
    assert not torch.allclose(*alone, atol=1e-3)
    # One step is linear in the prediction.
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2, rtol=1e-4, atol=1e-4)


def test_one_adapter_or_equal_ones_are_merge(sdxl: Base, forms: list[Adapter]) -> None:
    plain = Shot("a cat", steps=2, adapters=((forms[0], 0.8),))
    expected = render(sdxl, plain, output="latents")
    for pairs in (plain.adapters, plain.adapters * 2):
        shot = dataclasses.replace(plain, adapters=pairs, method=Composite())
        assert torch.equal(render(sdxl, shot, output="latents"), expected)
