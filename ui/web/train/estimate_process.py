"""Estimate a training's time and memory in a separate process: the page's server has no PyTorch.

Estimates are kept for a while, so that the same question is answered at once.
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

KEPT = 600.0  # seconds; not longer, since the free memory changes
SMALL = 128  # pixels: only bases up to this size are opened; for larger ones shapes are enough


def estimate_sentence(
    space: Workspace, request: TrainingRequest, base: BaseInfo, *, pictures: int
) -> str:
    """A sentence on time and memory. The first answer to a question takes seconds.

    base: what is known of the request's base. pictures: how many pictures the training learns from.
    Raises BadInput where the training cannot run.
    """
    # Time and memory don't depend on these fields.
    essential = replace(request, pictures=(), trigger="", init=None, name="")
    costs = space.runs.glob("*/cost.json")
    question = {
        "request": to_json(essential),
        "base": asdict(base),
        "pictures": pictures,
        "runs": str(space.runs),
        # A training that has begun since may have measured how long a step takes.
        "measured": sorted(f"{file} {file.stat().st_mtime_ns}" for file in costs),
    }
    key = json.dumps(question, sort_keys=True)
    when, estimate = _estimates.get(key, (0.0, ""))
    if time.time() > when + KEPT:
        estimate = run_in_process(_estimate, essential, base, pictures, space.runs)
        _estimates[key] = time.time(), estimate
    return estimate


_estimates: dict[str, tuple[float, str]] = {}  # by question: time and sentence


def _estimate(request: TrainingRequest, info: BaseInfo, pictures: int, runs: Path) -> str:
    """The estimate, computed in the other process."""
    base = _open(request, info)
    return str(trainers.estimate_request(request, base, pictures=pictures, runs=runs))


def _open(request: TrainingRequest, info: BaseInfo) -> "Base":
    """The base; for a large one a base of the same shapes without weights."""
    from studio.bases.load import load_base  # this imports PyTorch
    from studio.bases.real_config import real_config

    dtype = str(request.loading.get("dtype", "auto"))
    quantize = str(request.loading.get("quantize", "none"))
    if info.size <= SMALL:
        base = load_base(info.source, dtype=dtype, quantize=quantize)
    else:
        base = real_config(PUBLISHED[info.family], dtype=dtype, quantize=quantize)
    base.offload = bool(request.loading.get("offload", False))
    return base
