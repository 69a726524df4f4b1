"""Ask a running training for samples or a checkpoint now, by an empty file in the run's folder.

Any process that can write into the folder may ask: the page, a program, or `touch RUN/sample-now`.
"""

from pathlib import Path
from typing import Literal

Ask = Literal["sample", "save"]


def ask_training(run: Path, what: Ask) -> None:
    """Ask for samples or a checkpoint after the current step. Asking twice counts once."""
    _file(run, what).touch()


def take_ask(run: Path, what: Ask) -> bool:
    """Whether somebody asked. Removes the file, so that each ask is taken once."""
    try:
        _file(run, what).unlink()
    except FileNotFoundError:
        return False
    return True


def _file(run: Path, what: Ask) -> Path:
    return run / f"{what}-now"
