"""Measure how fast this machine does the work of a base, in a quarter of a second.

Three speeds are measured: that of convolutions as wide as the base's own, that of an activation
function between them, and that of a call with nothing to compute.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from studio.bases.device import parse_device

if TYPE_CHECKING:
    from studio.bases.base import Base

OPERATIONS = {"cpu": 5e8, "cuda": 5e10}  # the most of one timed convolution
LARGEST = {"cpu": 2**24, "cuda": 2**28}  # the most bytes of a timed activation
CALLS = 200
SHORTEST = 0.05  # seconds that a measurement takes at least


@dataclass(frozen=True)
class Speed:
    """Measured speeds.

    flops: floating-point operations per second. written: bytes that activations write per second.
    call: seconds of a call.
    """

    flops: float
    written: float
    call: float


def device_of(base: "Base") -> torch.device:
    """The base's device; for a base without weights, the one where bases are opened by default."""
    if base.device.type != "meta":
        return base.device
    return parse_device("auto")


def measure_speed(base: "Base", *, side: int, batch: int, half: bool) -> Speed:
    """The speed of this base's work on this machine now. side: that of the latents."""
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
    """Floating-point operations per second, in convolutions of each of the UNet's widths."""
    device = device_of(base)
    done = spent = 0.0
    for level, channels in enumerate(base.unet.config["block_out_channels"]):
        operations = 18.0 * channels**2  # for a pixel, with a 3 x 3 kernel
        own = batch * (side >> level) ** 2
        pixels = max(1, int(min(own, OPERATIONS[device.type] / operations)))
        height = max(1, int(pixels**0.5))
        x = torch.randn(1, channels, height, pixels // height, device=device, dtype=dtype)
        weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
        spent += _time(partial(F.conv2d, x, weight, padding=1), device)
        done += operations * height * (pixels // height)
    return done / spent


def _activation_speed(base: "Base", dtype: torch.dtype, *, side: int, batch: int) -> float:
    """Bytes per second that an activation writes, as wide as the UNet's first block."""
    device = device_of(base)
    numbers = batch * base.unet.config["block_out_channels"][0] * side**2
    most = LARGEST[device.type] // dtype.itemsize
    x = torch.randn(min(numbers, most), device=device, dtype=dtype)
    return x.numel() * x.itemsize / _time(partial(F.silu, x), device)


def _calls(small: torch.Tensor) -> None:
    for _ in range(CALLS):
        small = small + 1


def _time(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that work takes at its fastest, since other programs slow some measurements down."""
    work()
    _synchronize(device)
    started, times = perf_counter(), list[float]()
    while len(times) < 2 or perf_counter() - started < SHORTEST:
        begun = perf_counter()
        work()
        _synchronize(device)
        times.append(perf_counter() - begun)
    return min(times)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
