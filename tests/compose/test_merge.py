"""Merge by itself, with a made-up `eps`: a method needs no model."""

import pytest
import torch
from torch import Tensor

from compose import Merge, Mix, Part, method_named, methods, record
from compose._method import Ingredient
from studio.errors import BadInput


class Fake:
    """An ingredient of which only the strength counts."""

    def __init__(self, strength: float) -> None:
        self.strength = strength


def ingredients(*strengths: float) -> list[Ingredient]:
    return [Fake(strength) for strength in strengths]  # type: ignore[misc]


def test_every_step_is_one_evaluation_of_all_adapters() -> None:
    plan = Merge().prepare(ingredients(0.8, -0.5), steps=3)
    every = Mix((Part(0, 0.8), Part(1, -0.5)))
    calls = record(plan, 3)
    assert [[call.mix for call in step] for step in calls] == [[every]] * 3
    assert all(call.reuse is None for step in calls for call in step)


def test_prediction_is_the_evaluation_itself() -> None:
    answer = torch.full((1, 4, 2, 2), 7.0)

    def eps(mix: Mix, reuse: Mix | None = None) -> Tensor:
        return answer

    assert Merge().prepare([], steps=1).predict(0, eps) is answer


def test_methods_are_the_files_of_the_folder() -> None:
    assert methods()["merge"] is Merge
    assert not any(name.startswith("_") for name in methods())
    assert method_named("merge", {}) == Merge()


def test_unknown_method_or_option_is_named() -> None:
    with pytest.raises(BadInput, match=r"no method 'mergee'; there are .*merge"):
        method_named("mergee", {})
    with pytest.raises(BadInput, match="has no option 'strenght'"):
        method_named("merge", {"strenght": 1})
