"""How a training is followed on the terminal, with a training that only pretends."""

import os
import signal
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from threading import Event

import pytest

from studio.errors import Stopped
from trainers import Encoded, Progress, Saved, Started, Step
from ui.cli.training.train import follow
from ui.shared.training_run import interrupt_if, stopping


def pretended(
    closed: list[str], *, interrupted_at: int, then: Callable[[], None] = lambda: None
) -> Generator[Progress, None, None]:
    """Ten steps; at one of them the user presses Ctrl-C, and `then` this happens."""
    try:
        yield Started(
            run=Path("runs/a b"),
            layers=1,
            parameters=2,
            examples=3,
            round=3,
            skipped=(),
            steps=10,
            done=0,
            unit="picture",
        )
        yield Encoded(1, 1)
        for step in range(1, 11):
            if step == interrupted_at:
                os.kill(os.getpid(), signal.SIGINT)
                then()
            yield Step(step, 10, loss=0.5, lr=0.1, seconds=0.01)
        yield Saved(10, Path("runs/a b/checkpoints/step-000010"))
    finally:
        closed.append("closed")


def test_the_first_interrupt_ends_a_training_after_its_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    closed: list[str] = []
    with pytest.raises(Stopped, match="checkpoint is written"):
        follow(
            pretended(closed, interrupted_at=4),
            title="Training",
            resume_with="studio train lora --resume",
        )
    assert closed == ["closed"]  # which is when a training writes its checkpoint
    assert "studio train lora --resume 'runs/a b'" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["samples are drawn", "interrupted again"])
def test_what_takes_long_is_left_at_once_and_how_to_go_on_is_told(
    what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    closed, stop = list[str](), Event()
    drawn_on = partial(interrupt_if, stop)  # as between two steps of a sample
    again = partial(os.kill, os.getpid(), signal.SIGINT)
    progress = pretended(
        closed, interrupted_at=4, then=drawn_on if what == "samples are drawn" else again
    )
    with pytest.raises(Stopped, match="the training was stopped"):
        follow(progress, title="Training", resume_with="studio train lora --resume", stop=stop)
    assert closed == ["closed"]
    assert "studio train lora --resume 'runs/a b'" in capsys.readouterr().err


def test_a_second_interrupt_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), stopping() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever happens, signals are handled afterwards as they were before."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
