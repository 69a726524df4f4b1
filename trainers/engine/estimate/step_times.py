"""How fast a training goes here: as fast as an earlier one of its settings, which left a note.

A run writes cost.json beside its recipe: what decides how long a step takes, and how long it took.
Where no run of the same settings lies beside, the speed of convolutions of the base's own widths is
measured, that of an activation between them, and what PyTorch takes for a call whatever is in it;
all together in a quarter of a second.
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

from studio.files import write_file
from trainers.engine.distributed import world_size
from trainers.engine.kind import kind_name, options_of

if TYPE_CHECKING:
    from studio.bases.base import Base
    from studio.requests.recipe import Recipe
    from trainers.engine.kind import Kind

__all__ = ["Speed", "measured", "note", "noted", "place_of", "settings_of"]

NOTE = "cost.json"
FEWEST = 5  # steps that say something
# Of a recipe, what decides how long a step takes.
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
LONG = 0.05  # seconds of one measurement


@dataclass(frozen=True)
class Speed:
    """What is done in a second, and seconds that a call takes besides.

    flops: floating point operations. moved: bytes that an activation makes.
    """

    flops: float
    moved: float
    call: float


def place_of(base: "Base") -> torch.device:
    """Where a training on this base runs; one without weights would run where bases are opened."""
    if base.device.type != "meta":
        return base.device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def settings_of(kind: "Kind", base: "Base", recipe: "Recipe", *, prior: bool) -> dict[str, object]:
    """What decides how long a step takes, as JSON has it.

    kind: as it is trained on the base. prior: whether class pictures are learned too.
    """
    place = place_of(base)
    threads = f"{platform.machine()} x {torch.get_num_threads()}"
    return {
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else threads,
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


def note(run: Path, settings: Mapping[str, object], seconds: Sequence[float]) -> None:
    """Leave word in a run's folder. seconds: of each step that was taken."""
    if len(seconds) >= FEWEST:
        said = {"settings": settings, "step": median(seconds)}
        write_file(run / NOTE, json.dumps(said, indent=1).encode(), durable=False)


def noted(runs: Path, settings: Mapping[str, object]) -> float | None:
    """Seconds of a step, as the latest run of these settings in this folder has it."""
    found = sorted(runs.glob(f"*/{NOTE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found:
        try:
            said = json.loads(path.read_text())
            if said["settings"] == settings:
                return float(said["step"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a note that cannot be read says nothing
    return None


def measured(base: "Base", *, side: int, batch: int, half: bool) -> Speed:
    """The speed of this base's kind of work, here and now. side: of the latents."""
    place = place_of(base)
    dtype = base.dtype if half and base.dtype != torch.float32 else torch.float32
    dtype = torch.bfloat16 if half and dtype == torch.float32 else dtype
    small = torch.ones(8, device=place)
    return Speed(
        flops=_multiplied(base, dtype, side=side, batch=batch),
        moved=_moved(base, dtype, side=side, batch=batch),
        call=_seconds(partial(_calls, small), place) / CALLS,
    )


def _multiplied(base: "Base", dtype: torch.dtype, *, side: int, batch: int) -> float:
    """Floating point operations a second, of convolutions of each of the UNet's widths."""
    place = place_of(base)
    done = spent = 0.0
    for level, channels in enumerate(base.unet.config["block_out_channels"]):
        operations = 18.0 * channels**2  # of a pixel, in a kernel of three by three
        own = batch * (side >> level) ** 2
        pixels = max(1, int(min(own, OPERATIONS[place.type] / operations)))
        high = max(1, int(pixels**0.5))
        x = torch.randn(1, channels, high, pixels // high, device=place, dtype=dtype)
        weight = torch.randn(channels, channels, 3, 3, device=place, dtype=dtype)
        spent += _seconds(partial(F.conv2d, x, weight, padding=1), place)
        done += operations * high * (pixels // high)
    return done / spent


def _moved(base: "Base", dtype: torch.dtype, *, side: int, batch: int) -> float:
    """Bytes a second that an activation makes, of one as wide as the UNet's first block."""
    place = place_of(base)
    numbers = batch * base.unet.config["block_out_channels"][0] * side**2
    x = torch.randn(min(numbers, LARGEST[place.type] // dtype.itemsize), device=place, dtype=dtype)
    return x.numel() * x.itemsize / _seconds(partial(F.silu, x), place)


def _calls(small: torch.Tensor) -> None:
    for _ in range(CALLS):
        small = small + 1


def _seconds(work: Callable[[], object], place: torch.device) -> float:
    """What it takes on the average of a while, so that whatever else runs here counts too."""
    work()
    _settled(place)
    begun, times = perf_counter(), 0
    while times < 2 or perf_counter() - begun < LONG:
        work()
        _settled(place)
        times += 1
    return (perf_counter() - begun) / times


def _settled(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)
