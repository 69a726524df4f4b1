"""Step times: those of an earlier run with the same settings, or else measured speeds.

Every run writes cost.json beside its recipe: the settings that decide how long a step takes, and
the step time. Where no run has the same settings, three speeds are measured in a quarter of a
second: of convolutions as wide as the base's own, of an activation between them, and of a call,
whatever it computes.
"""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

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
FEWEST_STEPS = 5  # whose median is worth noting
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
OPERATIONS = {"cpu": 5e8, "cuda": 5e10}  # of one convolution that is timed
LARGEST = {"cpu": 2**24, "cuda": 2**28}  # bytes of an activation that is timed
CALLS = 200
SHORTEST = 0.05  # seconds of one measurement


@dataclass(frozen=True)
class Speed:
    """flops: operations a second. written: bytes that activations make a second. call: seconds."""

    flops: float
    written: float
    call: float


def device_of(base: "Base") -> torch.device:
    """Where a training on this base runs; without weights, where bases are opened by default."""
    if base.device.type != "meta":
        return base.device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def settings_of(kind: "Kind", base: "Base", recipe: "Recipe", *, prior: bool) -> dict[str, object]:
    """What decides how long a step takes, as JSON has it.

    kind: as it is trained on the base. prior: whether class pictures are learned too.
    """
    device = device_of(base)
    threads = f"{platform.machine()} x {torch.get_num_threads()}"
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else threads,
        "base": base.source,
        "dtype": base.precision,
        "kind": kind_name(kind),
        "options": options_of(kind),
        **{name: value for name, value in asdict(recipe).items() if name in DECIDING},
        "size": recipe.size or base.size,
        "prior": prior,
        "processes": world_size(),
        "average": recipe.ema > 0,
    }


def write_step_time(run: Path, settings: Mapping[str, object], seconds: Sequence[float]) -> None:
    """Write the step time into a run's folder. seconds: of each step that was taken."""
    if len(seconds) >= FEWEST_STEPS:
        entry = {"settings": settings, "step": median(seconds)}
        write_file(run / FILE, json.dumps(entry, indent=1).encode(), durable=False)


def find_step_time(runs: Path, settings: Mapping[str, object]) -> float | None:
    """Seconds of a step, as the latest run of these settings in this folder has it."""
    found = sorted(runs.glob(f"*/{FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found:
        try:
            entry = parse_object(read_text(path), str(path))
        except BadInput:
            continue
        step = entry.get("step")
        if entry.get("settings") == settings and isinstance(step, int | float):
            return float(step)
    return None


def measure_speed(base: "Base", *, side: int, batch: int, half: bool) -> Speed:
    """The speed of this base's kind of work, here and now. side: of the latents."""
    device = device_of(base)
    dtype = base.dtype if half and base.dtype != torch.float32 else torch.float32
    dtype = torch.bfloat16 if half and dtype == torch.float32 else dtype
    small = torch.ones(8, device=device)
    return Speed(
        flops=_convolution_speed(base, dtype, side=side, batch=batch),
        written=_activation_speed(base, dtype, side=side, batch=batch),
        call=_time(partial(_calls, small), device) / CALLS,
    )


def _convolution_speed(base: "Base", dtype: torch.dtype, *, side: int, batch: int) -> float:
    """Floating point operations a second, of convolutions of each of the UNet's widths."""
    device = device_of(base)
    done = spent = 0.0
    for level, channels in enumerate(base.unet.config["block_out_channels"]):
        operations = 18.0 * channels**2  # of a pixel, in a kernel of three by three
        own = batch * (side >> level) ** 2
        pixels = max(1, int(min(own, OPERATIONS[device.type] / operations)))
        height = max(1, int(pixels**0.5))
        x = torch.randn(1, channels, height, pixels // height, device=device, dtype=dtype)
        weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
        spent += _time(partial(F.conv2d, x, weight, padding=1), device)
        done += operations * height * (pixels // height)
    return done / spent


def _activation_speed(base: "Base", dtype: torch.dtype, *, side: int, batch: int) -> float:
    """Bytes a second that an activation makes, of one as wide as the UNet's first block."""
    device = device_of(base)
    numbers = batch * base.unet.config["block_out_channels"][0] * side**2
    most = LARGEST[device.type] // dtype.itemsize
    x = torch.randn(min(numbers, most), device=device, dtype=dtype)
    return x.numel() * x.itemsize / _time(partial(F.silu, x), device)


def _calls(small: torch.Tensor) -> None:
    for _ in range(CALLS):
        small = small + 1


def _time(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that work takes: the mean over a while, so that whatever else runs here counts."""
    work()
    _synchronize(device)
    started, times = perf_counter(), 0
    while times < 2 or perf_counter() - started < SHORTEST:
        work()
        _synchronize(device)
        times += 1
    return (perf_counter() - started) / times


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
