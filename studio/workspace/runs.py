"""Read the progress of a training from its run's folder."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from studio.errors import BadInput
from studio.training_log import LOG_FILE, TrainingLog, parse_log
from studio.workspace.folder import Workspace, child_path, entries

SAMPLE = re.compile(r"step-(\d{6,})-(\d{2,})\.png")
CHECKPOINT = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Log(TrainingLog):
    """The part of a run's log that `read_log` has read.

    mark: give it as `after` to read on after these lines. fresh: whether the lines are the whole
    log, not a continuation. So they are after a resume, which drops lines after its checkpoint.
    """

    mark: str
    fresh: bool


@dataclass(frozen=True)
class Sample:
    """A sample picture. number: that of its prompt, which is also its seed, from 0."""

    step: int
    number: int
    path: Path


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's adapter, which any mix can take."""

    step: int
    adapter: Path


def get_run(space: Workspace, run: str) -> Path:
    """A training's folder by its name; BadInput where there is none."""
    path = child_path(space.runs, run)
    if not path.is_dir():
        raise BadInput(f"there is no run {run}")
    return path


def read_log(space: Workspace, run: str, *, after: str = "") -> Log:
    """Read the new lines of a run's log. after: the mark of the part that was read last."""
    try:
        with (get_run(space, run) / LOG_FILE).open("rb") as file:
            state = os.fstat(file.fileno())
            # The inode shows whether it is the same file: a resumed run replaces it.
            same = re.fullmatch(rf"{state.st_ino}:(\d{{1,15}})", after)
            start = int(same[1]) if same and int(same[1]) <= state.st_size else 0
            file.seek(start)
            lines = file.read().rpartition(b"\n")[0]  # the last line may be half written
    except FileNotFoundError:
        return Log((), unreadable=0, mark="", fresh=True)
    log = parse_log(lines)
    mark = f"{state.st_ino}:{start + len(lines) + bool(lines)}"
    return Log(log.lines, log.unreadable, mark=mark, fresh=start == 0)


def list_samples(space: Workspace, run: str) -> list[Sample]:
    """The sample pictures so far, by step and number."""
    return [
        Sample(int(matched[1]), int(matched[2]), path)
        for path in _sorted_entries(get_run(space, run) / "samples")
        if (matched := SAMPLE.fullmatch(path.name))
    ]


def list_checkpoints(space: Workspace, run: str) -> list[Checkpoint]:
    """The checkpoints so far, by step."""
    return [
        Checkpoint(int(matched[1]), path / "adapter.safetensors")
        for path in _sorted_entries(get_run(space, run) / "checkpoints")
        if (matched := CHECKPOINT.fullmatch(path.name))
    ]


def _sorted_entries(folder: Path) -> list[Path]:
    return sorted(entries(folder)) if folder.is_dir() else []
