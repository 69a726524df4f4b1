"""What a training will take, worked out in a process of its own: the page's server has no PyTorch.

Answers stay for a while in the workspace's cache, so that the same question is answered at once.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import trainers
from studio.bases.info import BaseInfo
from studio.bases.names import PUBLISHED
from studio.errors import BadInput
from studio.files import write_file
from studio.requests.training import TrainingRequest, from_table, to_json
from studio.workspace import Workspace
from ui.shared.subprocesses import module_command, module_environment

if TYPE_CHECKING:
    from studio.bases.base import Base

LONGEST = 300.0  # seconds; on a quiet machine it is done in a few
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
        return _read_answer(cached.read_text())
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
        raise BadInput("no estimate could be made; you can start the training all the same")
    answer = done.stdout.splitlines()[-1]
    write_file(cached, answer.encode(), durable=False)
    return _read_answer(answer)


def _read_answer(text: str) -> str:
    answer = json.loads(text)
    if "wrong" in answer:
        raise BadInput(answer["wrong"])
    return answer["sentence"]


def _answer(question: Mapping[str, Any]) -> dict[str, str]:
    """The answer of the process: a sentence, or why there is no estimate."""
    try:
        request = from_table(question["request"])
        base = _open(request, BaseInfo(**question["base"]))
        found = trainers.estimate_request(
            request, base, pictures=question["pictures"], runs=question["runs"]
        )
    except BadInput as error:
        return {"wrong": str(error)}
    return {"sentence": str(found)}


def _open(request: TrainingRequest, info: BaseInfo) -> "Base":
    """The base, or one without weights that stands for a large one."""
    from studio.bases.load import load_base  # PyTorch with it
    from studio.bases.real_config import real_config

    dtype = str(request.loading.get("dtype", "auto"))
    if info.size <= SMALL:
        base = load_base(info.source, dtype=dtype)
    else:
        base = real_config(PUBLISHED[info.family], dtype=dtype)
    base.offload = bool(request.loading.get("offload", False))
    return base


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(5)
    print(json.dumps(_answer(json.load(sys.stdin))))
