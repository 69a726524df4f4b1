"""What a training will take is told by a process of its own, and remembered for a while."""

import time
from collections.abc import Callable

import pytest

from studio.bases.info import BaseInfo, read_base_info
from studio.errors import BadInput
from studio.requests.training import TrainingRequest
from studio.workspace import Workspace
from ui.web.train import estimate_process
from ui.web.train.estimate_process import KEPT, estimate_sentence


def sentence(space: Workspace, kind: str, base: BaseInfo | None, **options: object) -> str:
    assert base
    request = TrainingRequest(kind, "a robot", base=base.source, recipe={"steps": 20}, **options)  # pyright: ignore
    return estimate_sentence(space, request, base, pictures=5)


def test_it_is_told_in_a_sentence_and_not_worked_out_twice(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = read_base_info("sketch-sd1")
    said = sentence(space, "lora", base, options={"rank": 4})
    assert " to " in said and "of memory" in said  # nothing is known yet: a range

    def never(*_: object, **__: object) -> None:
        raise AssertionError("worked out again")

    monkeypatch.setattr(estimate_process, "run_in_process", never)
    assert sentence(space, "lora", base, options={"rank": 4}) == said
    assert sentence(space, "lora", base, options={"rank": 4}, name="another") == said
    with pytest.raises(AssertionError, match="again"):
        sentence(space, "lora", base, options={"rank": 5})
    later = time.time() + KEPT + 1
    monkeypatch.setattr(estimate_process.time, "time", lambda: later)
    with pytest.raises(AssertionError, match="again"):
        sentence(space, "lora", base, options={"rank": 4})


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Estimates are made in this process, which has PyTorch already."""

    def call(function: Callable[..., object], *arguments: object) -> object:
        return function(*arguments)

    monkeypatch.setattr(estimate_process, "run_in_process", call)


@pytest.mark.usefixtures("here")
def test_what_cannot_be_trained_is_refused_with_the_trainer_s_sentence(space: Workspace) -> None:
    with pytest.raises(BadInput, match="known for SDXL only"):
        sentence(space, "blora", read_base_info("sketch-sd1"))


@pytest.mark.usefixtures("here")
def test_a_large_base_is_not_opened(space: Workspace) -> None:
    large = BaseInfo("some/base", "base", "sd2", 768, 64)
    found = [sentence(space, "lora", large, loading={"offload": one}) for one in (False, True)]
    taken = [float(said.split(" GB")[0].split()[-1]) for said in found]
    assert taken[1] < taken[0] - 0.2  # the VAE and the text encoder wait elsewhere
