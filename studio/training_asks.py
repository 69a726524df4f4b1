"""Asking a training that runs for samples or a checkpoint now: an empty file in its run's folder.

Whoever can write there may ask, from any process: a page, a program, or `touch RUN/sample-now`.
"""

from pathlib import Path
from typing import Literal

Ask = Literal["sample", "save"]


def ask_training(run: Path, what: Ask) -> None:
    """Ask for it after the step at hand; asking twice before that is asking once."""
    _file(run, what).touch()


def take_ask(run: Path, what: Ask) -> bool:
    """Whether it was asked for since it was last taken."""
    try:
        _file(run, what).unlink()
    except FileNotFoundError:
        return False
    return True


def _file(run: Path, what: Ask) -> Path:
    return run / f"{what}-now"
