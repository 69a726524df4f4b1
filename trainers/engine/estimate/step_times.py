"""Record the step times of trainings, and find them for an estimate.

Every run writes cost.json beside its recipe, from its first steps on: the settings that decide how
long a step takes, and the step time. Where no run has the same settings, one on the same base shows
how fast this machine is. Where there is none either, the speed is measured (studio/cost/speed.py).
"""

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from studio.cost.speed import device_of
from studio.errors import BadInput
from studio.files import read_text, write_file
from studio.json_value import parse_object
from trainers.engine.distributed import world_size
from trainers.engine.kind import kind_name, options_of

if TYPE_CHECKING:
    from studio.bases.base import Base
    from studio.requests.recipe import Recipe
    from trainers.engine.kind import Kind

FILE = "cost.json"
SHARED = ("device", "base", "dtype", "quantize", "processes")  # equal in a similar training
FEWEST_STEPS = 5  # the median of fewer is not recorded
# The fields of a recipe that decide how long a step takes.
DECIDING = (
    "batch",
    "accumulation",
    "size",
    "precision",
    "checkpointing",
    "optimizer",
    "text_encoders",
    "new_tokens",
)


def settings_of(kind: "Kind", base: "Base", recipe: "Recipe", *, prior: bool) -> dict[str, object]:
    """The settings that decide how long a step takes, as JSON.

    kind: with the options for this base. prior: whether class pictures are learned too.
    """
    device = device_of(base)
    threads = f"{platform.machine()} x {torch.get_num_threads()}"
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else threads,
        "base": base.source,
        "dtype": base.precision,
        "quantize": base.quantize,
        "kind": kind_name(kind),
        "options": options_of(kind),
        **{name: value for name, value in asdict(recipe).items() if name in DECIDING},
        "size": recipe.size or base.size,
        "prior": prior,
        "processes": world_size(),
        "average": recipe.ema > 0,
    }


def is_round(steps: int) -> bool:
    """Whether the step time is recorded after this many steps: at every power of two from 8.

    So an estimate can use the times of a training that still runs.
    """
    return steps >= FEWEST_STEPS and steps & (steps - 1) == 0


def write_step_time(run: Path, settings: Mapping[str, object], seconds: Sequence[float]) -> None:
    """Write the median step time into a run's folder. seconds: of each step so far."""
    if len(seconds) >= FEWEST_STEPS:
        entry = {"settings": settings, "step": median(seconds)}
        write_file(run / FILE, json.dumps(entry, indent=1).encode(), durable=False)


def find_step_time(runs: Path, settings: Mapping[str, object]) -> float | None:
    """Seconds of a step in the latest run with these settings; None where there is none."""
    return next((step for recorded, step in _step_times(runs) if recorded == settings), None)


def find_similar(
    runs: Path, settings: Mapping[str, object]
) -> tuple[Mapping[str, Any], float] | None:
    """The latest run on the same device, base and precision: its settings and seconds of a step."""
    shared = {name: settings[name] for name in SHARED}
    for recorded, step in _step_times(runs):
        if shared.items() <= recorded.items():
            return recorded, step
    return None


def _step_times(runs: Path) -> Iterator[tuple[Mapping[str, Any], float]]:
    """Settings and seconds of a step of all runs that have recorded them, the latest first."""
    for path in sorted(runs.glob(f"*/{FILE}"), key=_modified, reverse=True):
        try:
            entry = parse_object(read_text(path), str(path))
        except BadInput:
            continue
        settings, step = entry.get("settings"), entry.get("step")
        if isinstance(settings, dict) and isinstance(step, int | float) and step > 0:
            fp8 = settings.pop("fp8", False)  # older runs have this in place of "quantize"
            yield {"quantize": "fp8" if fp8 else "none", **settings}, float(step)


def _modified(path: Path) -> float:
    return path.stat().st_mtime
