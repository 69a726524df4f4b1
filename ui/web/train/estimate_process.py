"""What a training will take, worked out in a process of its own: the page's server has no PyTorch.

Answers are kept for a while, so that the same question is answered at once.
"""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import trainers
from studio.bases.info import BaseInfo
from studio.bases.names import PUBLISHED
from studio.requests.training import TrainingRequest, to_json
from studio.workspace import Workspace
from ui.web.server.torch_process import run_in_process

if TYPE_CHECKING:
    from studio.bases.base import Base

KEPT = 600.0  # seconds, since how much memory is free changes
SMALL = 128  # pixels: bases so small are opened, of others the shapes are known


def estimate_sentence(
    space: Workspace, request: TrainingRequest, base: BaseInfo, *, pictures: int
) -> str:
    """A sentence on time and memory. Takes seconds, where it was not asked before.

    base: what is known of the request's base. pictures: how many there are to learn from.
    Raises BadInput where the training cannot be.
    """
    # Where pictures lie and what they show doesn't count.
    alike = replace(request, pictures=(), trigger="", init=None, name="")
    question = {
        "request": to_json(alike),
        "base": asdict(base),
        "pictures": pictures,
        "runs": str(space.runs),
        # One that has begun since may know how long a step takes.
        "told": sorted(f"{one} {one.stat().st_mtime_ns}" for one in space.runs.glob("*/cost.json")),
    }
    text = json.dumps(question, sort_keys=True)
    when, said = _answers.get(text, (0.0, ""))
    if time.time() > when + KEPT:
        said = run_in_process(_answer, alike, base, pictures, space.runs)
        _answers[text] = time.time(), said
    return said


_answers: dict[str, tuple[float, str]] = {}  # by their questions: when they were given, and they


def _answer(request: TrainingRequest, info: BaseInfo, pictures: int, runs: Path) -> str:
    """What the process says."""
    base = _open(request, info)
    return str(trainers.estimate_request(request, base, pictures=pictures, runs=runs))


def _open(request: TrainingRequest, info: BaseInfo) -> "Base":
    """The base, or one without weights that stands for a large one."""
    from studio.bases.load import load_base  # PyTorch with it
    from studio.bases.real_config import real_config

    dtype = str(request.loading.get("dtype", "auto"))
    quantize = str(request.loading.get("quantize", "none"))
    if info.size <= SMALL:
        base = load_base(info.source, dtype=dtype, quantize=quantize)
    else:
        base = real_config(PUBLISHED[info.family], dtype=dtype, quantize=quantize)
    base.offload = bool(request.loading.get("offload", False))
    return base
