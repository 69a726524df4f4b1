"""What makes trainings quick where a test is about something else."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

import trainers
from studio.bases.base import Base
from ui.cli.training import train
from ui.shared.training_run import draw_with
from ui.worker import train_jobs

true_estimate = trainers.estimate_request


@pytest.fixture(scope="module")
def quick_trainings() -> Iterator[None]:
    """Samples are drawn in two steps, and estimates are made up.

    Both take many times longer than a few steps of a tiny base.
    """

    def draw_quickly(base: Base, fields: Mapping[str, Any] | None = None, **more: Any) -> Callable:
        return draw_with(base, {**(fields or {}), "steps": 2}, **more)

    said = trainers.Estimate(seconds=1, bytes=10**9, step=0.1, source="same", free=None)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train, "draw_with", draw_quickly)
        patched.setattr(train_jobs, "draw_with", draw_quickly)
        patched.setattr(trainers, "estimate_request", lambda *given, **more: said)
        yield


@pytest.fixture
def true_estimates(quick_trainings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Estimates as they are."""
    monkeypatch.setattr(trainers, "estimate_request", true_estimate)
