"""What a training will take, worked out in a process of its own: the page's server has no PyTorch.

What was found is kept for a while in the workspace's cache, for when the same is asked again.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import trainers
from studio.bases.info import BaseInfo
from studio.errors import BadInput
from studio.files import write_file
from studio.workspace import Workspace
from ui.shared.subprocesses import module_command, module_environment

__all__ = ["Asked", "estimated"]

LONGEST = 300.0  # seconds; on a quiet machine it is done in a few
KEPT = 600.0  # seconds, since how much memory is free changes
SMALL = 128  # pixels: bases so small are opened, of others the shapes are known
CONFIGS = {"sd1": "sd15", "sd2": "sd21", "sdxl": "sdxl"}


@dataclass(frozen=True)
class Asked:
    """A training to estimate. options: of the kind; recipe: what differs from a start's.

    config: a real configuration that stands for a large base, "" for a small one, which is opened.
    done: how many trainings there are, of which one may know how long a step takes.
    """

    kind: str
    options: Mapping[str, object]
    base: str
    config: str
    dtype: str
    offload: bool
    pictures: int
    recipe: Mapping[str, Any]
    runs: str
    done: int

    @classmethod
    def of(
        cls,
        space: Workspace,
        kind: trainers.Kind,
        base: BaseInfo,
        *,
        pictures: int,
        recipe: Mapping[str, Any],
        loading: Mapping[str, Any],
    ) -> "Asked":
        """This kind on this base. loading: fields of ui.shared.loading.Loading."""
        small = base.size <= SMALL
        return cls(
            kind=type(kind).__name__.lower(),
            options=asdict(kind),  # pyright: ignore[reportArgumentType]
            base=base.source if small else "",
            config="" if small else CONFIGS[base.family],
            dtype=str(loading.get("dtype", "auto")),
            offload=bool(loading.get("offload", False)),
            pictures=pictures,
            recipe=dict(recipe),
            runs=str(space.runs),
            done=len(list(space.runs.glob("*/adapter.safetensors"))),
        )


def estimated(space: Workspace, asked: Asked) -> str:
    """A sentence on time and memory. Takes seconds, where it was not asked before.

    Raises BadInput where the training cannot be.
    """
    text = json.dumps(asdict(asked), sort_keys=True)
    kept = space.cache / "estimates" / f"{sha256(text.encode()).hexdigest()[:24]}.json"
    if kept.is_file() and kept.stat().st_mtime > time.time() - KEPT:
        return _told(kept.read_text())
    try:
        done = subprocess.run(
            module_command("ui.web.train.estimate_process"),
            input=text,
            capture_output=True,
            text=True,
            timeout=LONGEST,
            cwd=space.cache,
            env=module_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BadInput("the machine is too busy to tell how long it will take") from None
    if done.returncode:
        raise BadInput("how long it will take cannot be told; the training may run all the same")
    told = done.stdout.splitlines()[-1]
    write_file(kept, told.encode(), durable=False)
    return _told(told)


def _told(text: str) -> str:
    found = json.loads(text)
    if "wrong" in found:
        raise BadInput(found["wrong"])
    return found["said"]


def _estimate(asked: Asked) -> dict[str, str]:
    from studio.bases.load import load_base  # PyTorch with it
    from studio.bases.real_config import real_config

    try:
        base = (
            real_config(asked.config, dtype=asked.dtype)
            if asked.config
            else load_base(asked.base, dtype=asked.dtype)
        )
        base.offload = asked.offload
        kind = trainers.kinds()[asked.kind](**asked.options)
        found = trainers.estimate(
            kind, base, pictures=asked.pictures, runs=asked.runs, **asked.recipe
        )
    except BadInput as error:
        return {"wrong": str(error)}
    return {"said": str(found)}


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(5)
    print(json.dumps(_estimate(Asked(**json.load(sys.stdin)))))
