"""Methods that ask for the unconditional and the prompted prediction, and guide by themselves."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from compose import Eps, Halves, Mix, render, schedule
from compose.engine.method import MethodAdapter
from studio.adapters.adapter import Adapter
from studio.bases.base import Base
from studio.requests.shot import Shot


@dataclass(frozen=True)
class OwnGuidance:
    """A method that makes what it likes of both halves."""

    of: Callable[[Halves], Tensor]

    def check(self, adapters: Sequence[Adapter]) -> None:
        pass

    def prepare(self, adapters: Sequence[MethodAdapter], steps: int) -> "OwnGuidance":
        return self

    def predict(self, step: int, eps: Eps) -> Tensor:
        return self.of(eps.halves(Mix(())))


SHOT = Shot("a cat", negative="a dog", steps=2, guidance=4.0)


def latents(base: Base, shot: Shot, of: Callable[[Halves], Tensor] | None = None) -> Tensor:
    method = None if of is None else OwnGuidance(of)
    return render(base, dataclasses.replace(shot, method=method), output="latents")


def test_guiding_the_halves_is_the_guided_prediction(sdxl: Base) -> None:
    own = latents(sdxl, SHOT, lambda two: two.without + two.guidance * (two.prompted - two.without))
    assert torch.equal(own, latents(sdxl, SHOT))


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_each_half_is_a_picture_without_guidance(bases: dict[str, Base], guidance: float) -> None:
    """At guidance 1 too, where a guided prediction needs no negative prompt."""
    base, shot = bases["sd1"], dataclasses.replace(SHOT, guidance=guidance)
    alone = Shot("a cat", steps=2, guidance=1.0)
    other = Shot("a dog", steps=2, guidance=1.0)
    for of, expected in ((lambda two: two.prompted, alone), (lambda two: two.without, other)):
        torch.testing.assert_close(
            latents(base, shot, of), latents(base, expected), rtol=1e-4, atol=1e-4
        )


def test_both_answers_come_from_one_evaluation(sdxl: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    forward = sdxl.unet.forward

    def counted(sample: Tensor, *given: object, **named: object) -> object:
        rows.append(len(sample))
        return forward(sample, *given, **named)

    @dataclass(frozen=True)
    class Both(OwnGuidance):
        def predict(self, step: int, eps: Eps) -> Tensor:
            return eps(Mix(())) + 0 * self.of(eps.halves(Mix(())))

    monkeypatch.setattr(sdxl.unet, "forward", counted)
    shot = dataclasses.replace(SHOT, method=Both(lambda two: two.prompted))
    render(sdxl, shot, output="latents")
    assert rows == [2, 2]


def test_a_schedule_weighs_the_halves_as_one_pass() -> None:
    method = OwnGuidance(lambda two: two.without + 3 * (two.prompted - two.without))
    found = schedule(dataclasses.replace(SHOT, method=method))
    assert [[one.weight for one in step] for step in found.steps] == [[1.0], [1.0]]
