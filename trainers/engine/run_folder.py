"""The folder of one training: recipe.toml, log.jsonl, checkpoints/, samples/, the adapter.

A checkpoint is a folder, checkpoints/step-000200, of three files: the adapter as it stands,
state.safetensors with the trained numbers and the optimiser's, state.json with the rest. It is
written under another name and renamed, so a checkpoint that is there is whole. Nothing is pickled.
"""

import errno
import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from studio.errors import BadInput
from studio.files import write_file
from trainers.engine.recipe.toml_text import Table, to_toml

if TYPE_CHECKING:
    from PIL.Image import Image

    from studio.adapters.adapter import Adapter

__all__ = [
    "Log",
    "Run",
    "State",
    "full_disk",
    "require_adapter",
    "require_place",
    "require_space",
]

VERSION = 1
# What a recipe.toml always has.
KEPT = {"kind", "trigger", "pictures", "base", "fingerprint", "examples", "options", "recipe"}


@dataclass(frozen=True, eq=False)
class State:
    """All that a step changes: what a checkpoint holds and a resumed run starts from."""

    trained: Mapping[str, nn.Module]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    average: Mapping[str, nn.Module] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """The trained numbers, their average and the optimiser's tensors, by name."""
        named = {
            f"{what}/{owner}/{name}": tensor
            for what, modules in self._modules()
            for owner, module in modules.items()
            for name, tensor in module.state_dict().items()
        }
        for number, slots in self._kept()["state"].items():
            for name, value in slots.items():
                if isinstance(value, Tensor):
                    # bitsandbytes shares these among parameters, which safetensors won't have.
                    own = value.clone() if name in ("qmap1", "qmap2") else value
                    named[f"optimizer/{number}/{name}"] = own
        return {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}

    def plain(self) -> dict[str, object]:
        """The optimiser's and the scaler's settings and counters, as JSON has them."""
        kept = self._kept()
        slots = {
            number: {k: v for k, v in slots.items() if not isinstance(v, Tensor)}
            for number, slots in kept["state"].items()
        }
        groups = [{k: v for k, v in g.items() if k != "params"} for g in kept["param_groups"]]
        scaler = self.scaler.state_dict() if self.scaler else None
        return {"slots": slots, "groups": groups, "scaler": scaler}

    def restore(self, tensors: Mapping[str, Tensor], plain: Mapping) -> None:
        """The inverse of `tensors` and `plain`."""
        for what, modules in self._modules():
            for owner, module in modules.items():
                prefix = f"{what}/{owner}/"
                module.load_state_dict(
                    {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                )
        slots = {int(number): dict(values) for number, values in plain["slots"].items()}
        for key, tensor in tensors.items():
            if key.startswith("optimizer/"):
                _, number, name = key.split("/")
                slots.setdefault(int(number), {})[name] = tensor
        groups = self._kept()["param_groups"]
        for group, kept in zip(groups, plain["groups"], strict=True):
            group.update({k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()})
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        if self.scaler and plain["scaler"]:
            self.scaler.load_state_dict(plain["scaler"])

    def _modules(self) -> tuple[tuple[str, Mapping[str, nn.Module]], ...]:
        return ("parameter", self.trained), ("average", self.average)

    def _kept(self) -> dict:
        # As PyTorch has it: bitsandbytes folds its tensors into a dict of each parameter's.
        return torch.optim.Optimizer.state_dict(self.optimizer)


@dataclass(frozen=True)
class Run:
    """A training's folder."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.toml"

    @property
    def adapter(self) -> Path:
        """Where the finished adapter lies; there is none before the last step."""
        return self.folder / "adapter.safetensors"

    def require_new(self) -> None:
        """BadInput when the folder holds a training already."""
        if self.recipe.exists():
            raise BadInput(
                f"{self.folder} holds a training already: resume it, or name another folder"
            )

    def create(self, tables: Mapping[str, Table]) -> None:
        """Make the folder and write the recipe."""
        write_file(self.recipe, to_toml(tables).encode())

    def read(self) -> dict:
        """The recipe's tables; BadInput when this is no run or its recipe is damaged."""
        if not self.recipe.is_file():
            raise BadInput(f"{self.folder} is no training's folder: it has no recipe.toml")
        try:
            tables = tomllib.loads(self.recipe.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"{self.recipe} cannot be read: {error}") from error
        missing = KEPT - set(tables)
        if missing:
            raise BadInput(f"{self.recipe} lacks {', '.join(sorted(missing))}")
        return tables

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    def write_sample(self, picture: "Image", *, step: int, number: int) -> Path:
        """Keep sample picture `number` of this step as a PNG."""
        data = BytesIO()
        picture.save(data, "PNG")
        path = self.folder / "samples" / f"step-{step:06d}-{number:02d}.png"
        write_file(path, data.getvalue())
        return path

    def checkpoint(self, step: int) -> Path:
        """The folder of this step's checkpoint."""
        return self.folder / "checkpoints" / f"step-{step:06d}"

    def last_checkpoint(self, *, before: int | None = None) -> Path | None:
        """The checkpoint of the most steps, or of the most that are fewer than `before`."""
        earlier = [n for n in self._steps() if before is None or n < before]
        return self.checkpoint(max(earlier)) if earlier else None

    def checkpoints(self) -> dict[int, Path]:
        """The adapters of the checkpoints by their steps, rising."""
        return {step: self.checkpoint(step) / "adapter.safetensors" for step in self._steps()}

    def _steps(self) -> list[int]:
        """The steps of which there is a checkpoint, rising."""
        found = self.folder.glob("checkpoints/step-*")
        return sorted(int(p.name[5:]) for p in found if re.fullmatch(r"step-\d{6,}", p.name))

    def thin(self, keep: int) -> None:
        """Delete all checkpoints but the newest so many."""
        for step in self._steps()[:-keep]:
            path = self.checkpoint(step)
            # Out of sight first: half a checkpoint is none.
            shutil.rmtree(path.rename(path.with_name(f".{path.name}")))

    def save(self, state: State, adapter: "Adapter", *, step: int, seconds: float) -> Path:
        """Write a checkpoint. seconds: what the training took so far."""
        final = self.checkpoint(step)
        final.parent.mkdir(parents=True, exist_ok=True)
        for left_behind in final.parent.glob(".step-*"):
            shutil.rmtree(left_behind)
        folder = Path(tempfile.mkdtemp(prefix=".step-", dir=final.parent))
        plain = {"version": VERSION, "step": step, "seconds": seconds, **state.plain()}
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

    def load(self, path: Path, state: State) -> tuple[int, float]:
        """Bring a state to a checkpoint's; returns its step and the seconds it took so far."""
        try:
            plain = json.loads((path / "state.json").read_text())
            state.restore(load_file(path / "state.safetensors"), plain)
            return int(plain["step"]), float(plain["seconds"])
        except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise BadInput(
                f"the checkpoint {path} is damaged: delete it to resume from the one before"
            ) from error


class Log:
    """log.jsonl: a line for each step, readable while it grows."""

    def __init__(self, path: Path, *, keep: int) -> None:
        """keep: lines of later steps than this, left by a run that was cut off, are dropped."""
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= keep]
        write_file(path, "".join(f"{line}\n" for line in kept).encode())
        self._file = path.open("a", buffering=1)

    def write(self, entry: Mapping[str, int | float]) -> None:
        """Add a line."""
        self._file.write(json.dumps(entry) + "\n")

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def require_place(file: Path) -> None:
    """BadInput unless a file can be written there, its folders made where they are missing."""
    if file.is_dir():
        raise BadInput(f"{file} is a folder: give the name of a file")
    above = next(path for path in file.absolute().parents if path.exists())
    if not above.is_dir():
        raise BadInput(f"{file} cannot be written, since {above} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise BadInput(f"{file} cannot be written: {above} may not be changed")


def require_adapter(file: Path) -> None:
    """BadInput unless an adapter can be written there."""
    if file.suffix != ".safetensors":
        raise BadInput(f"an adapter is a .safetensors file; out was given as {file}")
    require_place(file)


def require_space(folder: Path, needed: int) -> None:
    """BadInput unless so many bytes are free where the folder is or will be."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise BadInput(
            f"{folder} needs about {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free: "
            "free some space, keep fewer checkpoints (save_every) or name another folder"
        )


@contextmanager
def full_disk(run: Run) -> Iterator[None]:
    """Turns the system's word for a full disk, as files are written, into a sentence."""
    try:
        yield
    except (BadInput, OSError, SafetensorError) as error:
        cause = error.__cause__ if isinstance(error, BadInput) else error
        full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and "os error 28" not in str(error):  # as safetensors says it
            raise
        raise BadInput(
            f"no space is left on the disk of {run.folder}: free some, then resume this run"
        ) from error
