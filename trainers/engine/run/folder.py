"""The folder of one training: recipe.toml, log.jsonl, checkpoints/, samples/, the adapter.

A checkpoint is a folder, such as checkpoints/step-000200, of three files: the adapter at that step,
state.safetensors with the trained weights and the optimizer's tensors, and state.json with the
rest. It is written under another name and then renamed, so every checkpoint is complete. Nothing is
pickled.
"""

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from studio.errors import BadInput
from studio.files import check_writable, file_sha256, read_text, write_file
from studio.json_value import parse_object
from studio.requests.training import Recorded, TrainingRequest, read_request, to_toml
from studio.training_log import LOG_FILE, TrainingLog, parse_log
from trainers.engine.run.checkpoint import TrainingState

if TYPE_CHECKING:
    from PIL.Image import Image

    from studio.adapters.adapter import Adapter

VERSION = 1
# Errors of reading a checkpoint that is damaged or belongs to another training.
DAMAGED = (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError)
DAMAGED += (RuntimeError, OverflowError)


@dataclass(frozen=True)
class Run:
    """A training's folder."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.toml"

    @property
    def adapter(self) -> Path:
        """The file of the finished adapter, which is written after the last step."""
        return self.folder / "adapter.safetensors"

    def check_out(self, out: Path) -> None:
        """Raise BadInput unless the adapter can be written to `out`.

        An existing file is replaced only if this run wrote it, or if it equals this run's adapter.
        """
        check_adapter_path(out)
        if os.path.lexists(out) and not self._wrote(out):
            raise BadInput(f"{out} already exists: give another --out, or move that file away")

    def _wrote(self, file: Path) -> bool:
        own = {self.out_record.read_text()} if self.out_record.exists() else set()
        if self.adapter.exists():
            own.add(file_sha256(self.adapter))
        return file.is_file() and file_sha256(file) in own

    def write_out(self, adapter: "Adapter", out: Path) -> Path:
        """Write the finished adapter to `out` too, and return that path."""
        self.check_out(out)  # somebody may have written a file there since the start
        write_file(self.out_record, file_sha256(self.adapter).encode())
        return adapter.save(out)

    @property
    def out_record(self) -> Path:
        """The SHA-256 of the adapter that the run wrote to its request's `out`."""
        return self.folder / "out.sha256"

    def check_new(self) -> None:
        """Raise BadInput where the folder holds a training already."""
        if self.recipe.exists():
            raise BadInput(
                f"{self.folder} holds a training already: resume it, or name another folder"
            )

    def create(self, request: TrainingRequest) -> None:
        """Make the folder and write the recipe."""
        write_file(self.recipe, to_toml(request).encode())

    def read(self) -> tuple[TrainingRequest, Recorded]:
        """The request, and what the run had when it began.

        Raises BadInput where the folder is no run, or is damaged.
        """
        if not self.recipe.is_file():
            raise BadInput(f"{self.folder} is no training's folder: it has no recipe.toml")
        request = read_request(self.recipe)
        recorded = request.recorded or Recorded(request.base)
        missing = [name for name in ("fingerprint", "examples") if not getattr(recorded, name)]
        if missing:
            raise BadInput(f"{self.recipe} lacks {', '.join(missing)}")
        return request, recorded

    @property
    def log(self) -> Path:
        return self.folder / LOG_FILE

    def read_log(self) -> TrainingLog:
        """The log so far; it has no lines before the first step."""
        return parse_log(self.log.read_bytes() if self.log.exists() else b"")

    def write_sample(self, picture: "Image", *, step: int, number: int) -> Path:
        """Write sample `number` of this step as a PNG."""
        data = BytesIO()
        picture.save(data, "PNG")
        path = self.folder / "samples" / f"step-{step:06d}-{number:02d}.png"
        write_file(path, data.getvalue())
        return path

    def checkpoint(self, step: int) -> Path:
        """The folder of this step's checkpoint."""
        return self.folder / "checkpoints" / f"step-{step:06d}"

    def last_checkpoint(self, *, before: int | None = None) -> Path | None:
        """The latest checkpoint; before: the latest of an earlier step than this."""
        earlier = [n for n in self._checkpoint_steps() if before is None or n < before]
        return self.checkpoint(max(earlier)) if earlier else None

    def checkpoints(self) -> dict[int, Path]:
        """The adapters of the checkpoints by step, ascending."""
        return {
            step: self.checkpoint(step) / "adapter.safetensors" for step in self._checkpoint_steps()
        }

    def _checkpoint_steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending."""
        paths = self.folder.glob("checkpoints/step-*")
        return sorted(int(p.name[5:]) for p in paths if re.fullmatch(r"step-\d{6,}", p.name))

    def keep_newest(self, count: int) -> None:
        """Delete all checkpoints except for the newest `count`."""
        for step in self._checkpoint_steps()[:-count]:
            path = self.checkpoint(step)
            # Renamed first, so that a half-deleted checkpoint does not look like a good one.
            shutil.rmtree(path.rename(path.with_name(f".{path.name}")))

    def save_checkpoint(
        self, state: TrainingState, adapter: "Adapter", *, step: int, seconds: float
    ) -> Path:
        """Write a checkpoint. seconds: training time so far."""
        final = self.checkpoint(step)
        final.parent.mkdir(parents=True, exist_ok=True)
        for left_behind in final.parent.glob(".step-*"):
            shutil.rmtree(left_behind)
        folder = Path(tempfile.mkdtemp(prefix=".step-", dir=final.parent))
        plain = {"version": VERSION, "step": step, "seconds": seconds, **state.as_json()}
        try:
            adapter.save(folder / "adapter.safetensors")
            write_file(folder / "state.safetensors", save(state.tensors()))
            write_file(folder / "state.json", json.dumps(plain, indent=1).encode())
            folder.chmod(0o755)
            if final.exists():
                shutil.rmtree(final)
            folder.rename(final)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return final

    def load_checkpoint(self, path: Path, state: TrainingState) -> tuple[int, float]:
        """Restore a state from a checkpoint. Returns its step and its training time in seconds."""
        try:
            plain: Any = parse_object(read_text(path / "state.json"), "its state.json")
            state.restore(load_file(path / "state.safetensors"), plain)
            return int(plain["step"]), float(plain["seconds"])
        except DAMAGED as error:
            raise BadInput(
                f"the checkpoint {path} is damaged: delete it to resume from the one before"
            ) from error


class Log:
    """Writes log.jsonl: a line for each step, readable at once."""

    def __init__(self, run: Run, *, keep: int) -> None:
        """keep: the last step whose line stays. A killed run logged steps that come again."""
        kept = [line for line in run.read_log().lines if line["step"] <= keep]
        write_file(run.log, "".join(f"{json.dumps(line)}\n" for line in kept).encode())
        self._file = run.log.open("a", buffering=1)

    def write(self, entry: Mapping[str, int | float]) -> None:
        """Add a line."""
        self._file.write(json.dumps(entry) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def check_adapter_path(file: Path) -> None:
    """Raise BadInput unless an adapter can be written there."""
    if file.suffix != ".safetensors":
        raise BadInput(f"an adapter is a .safetensors file; out was given as {file}")
    check_writable(file)


def check_free_space(folder: Path, needed: int) -> None:
    """Raise BadInput unless this many bytes are free where the folder is or will be."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise BadInput(
            f"{folder} needs about {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free: "
            "free some space, keep fewer checkpoints (save_every) or name another folder"
        )


@contextmanager
def report_full_disk(run: Run) -> Iterator[None]:
    """Turn the system's error for a full disk into a BadInput that says what to do."""
    try:
        yield
    except (BadInput, OSError, SafetensorError) as error:
        cause = error.__cause__ if isinstance(error, BadInput) else error
        full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and "os error 28" not in str(error):  # safetensors' message for a full disk
            raise
        raise BadInput(
            f"no space is left on the disk of {run.folder}: free some, then resume this run"
        ) from error
