"""How long a large picture will take, estimated before its first step."""

from typing import TYPE_CHECKING

from compose.engine.schedule import schedule
from studio.cost.operations import PassCost, decoding_cost, evaluation_cost
from studio.cost.speed import OPERATIONS, Speed, measure_speed
from studio.duration import format_range
from studio.requests.resolved_shot import ResolvedShot

if TYPE_CHECKING:
    from studio.bases.base import Base

# Pictures of this many times the base's own pixels get an estimate; the progress of smaller ones
# soon shows how long they take.
LARGE = 4
LEAST, MOST = 0.5, 2.0  # the range that is told, as factors of the estimate


def time_note(base: "Base", resolved: ResolvedShot) -> str:
    """The expected time of a large picture, such as "12 to 48 min"; "" for others.

    Takes a second, to measure the machine's speed.
    """
    size = resolved.height, resolved.width
    width, height = resolved.enlarged or (resolved.width, resolved.height)
    larger = height, width
    if larger[0] * larger[1] < LARGE * base.size**2 or base.device.type not in OPERATIONS:
        return ""
    rows = 2 if resolved.shot.guidance > 1 else 1
    half = base.dtype.itemsize < 4
    speed = measure_speed(base, side=min(size) // base.latent_factor, batch=rows, half=half)
    shares = resolved.shot.passes
    passes = [evaluation_cost(base, size=one, rows=rows) for one in (size, larger)]
    mean = sum(_seconds(one, speed) * n for one, n in zip(passes, shares, strict=False))
    seconds = schedule(resolved, base).cost * mean / sum(shares)
    seconds += _seconds(decoding_cost(base, size=larger), speed)
    return format_range(LEAST * seconds, MOST * seconds)


def _seconds(cost: PassCost, speed: Speed) -> float:
    """The seconds of a pass. Memory traffic counts twice: each tensor is written and read."""
    return cost.forward / speed.flops + 2 * cost.written / speed.written + cost.calls * speed.call
