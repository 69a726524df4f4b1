"""The progress of a training, read from its run's folder."""

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
    """What `read_log` read of a run's log.

    mark: what it takes to go on after these lines. fresh: they are all there are, not
    those that followed; so they are after a resume, which drops what came after its checkpoint.
    """

    mark: str
    fresh: bool


@dataclass(frozen=True)
class Sample:
    """A sample picture. number: of its prompt and seed, from 0."""

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
    """The log's lines that were not read yet. after: the mark of the part that was read last."""
    try:
        with (get_run(space, run) / LOG_FILE).open("rb") as file:
            state = os.fstat(file.fileno())
            # A resumed run replaces the file.
            known = re.fullmatch(rf"{state.st_ino}:(\d{{1,15}})", after)
            start = int(known[1]) if known and int(known[1]) <= state.st_size else 0
            file.seek(start)
            whole = file.read().rpartition(b"\n")[0]  # the last line may be half written
    except FileNotFoundError:
        return Log((), unreadable=0, mark="", fresh=True)
    read = parse_log(whole)
    mark = f"{state.st_ino}:{start + len(whole) + bool(whole)}"
    return Log(read.lines, read.unreadable, mark=mark, fresh=start == 0)


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
