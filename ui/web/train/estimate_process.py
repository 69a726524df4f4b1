"""What a training will take, worked out in a process of its own: the page's server has no PyTorch.

Answers stay for a while in the workspace's cache, so that the same question is answered at once.
"""

import json
import time
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import trainers
from studio.bases.info import BaseInfo
from studio.bases.names import PUBLISHED
from studio.errors import BadInput
from studio.files import write_file
from studio.requests.training import TrainingRequest, to_json
from studio.workspace import Workspace
from ui.web.server.adapter_process import run_in_process

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
    cached = space.cache / "estimates" / f"{sha256(text.encode()).hexdigest()[:24]}.json"
    if cached.is_file() and cached.stat().st_mtime > time.time() - KEPT:
        answer = json.loads(cached.read_text())
    else:
        answer = run_in_process(_answer, alike, base, pictures, space.runs)
        write_file(cached, json.dumps(answer).encode(), durable=False)
    if "wrong" in answer:
        raise BadInput(answer["wrong"])
    return answer["sentence"]


def _answer(request: TrainingRequest, info: BaseInfo, pictures: int, runs: Path) -> dict[str, str]:
    """The answer of the process: a sentence, or why there is no estimate."""
    try:
        base = _open(request, info)
        found = trainers.estimate_request(request, base, pictures=pictures, runs=runs)
    except BadInput as error:
        return {"wrong": str(error)}
    return {"sentence": str(found)}


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
