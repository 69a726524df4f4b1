"""The accessories that a subject wears or holds, in fixed colours, in the subject's unit box."""

import math
from functools import cache

from studio.sketch.world.shapes import Shape, box, dome, oval, poly, stroke
from studio.sketch.world.subjects import where

BLACK = (35, 32, 42)
RED = (215, 35, 55)
GOLD = (250, 200, 50)
BLUE = (45, 85, 200)
GREEN = (30, 140, 80)
MAGENTA = (235, 50, 150)
WOOD = (110, 70, 45)
WHITE = (255, 255, 255)

Spot = tuple[float, float, float]


def _top_hat(spot: Spot) -> list[Shape]:
    x, y, w = spot
    return [
        box(BLACK, x - 0.36 * w, y - 0.82 * w, x + 0.36 * w, y + 0.02 * w),
        box(RED, x - 0.36 * w, y - 0.24 * w, x + 0.36 * w, y - 0.04 * w),
        box(BLACK, x - 0.62 * w, y - 0.04 * w, x + 0.62 * w, y + 0.12 * w),
    ]


def _crown(spot: Spot) -> list[Shape]:
    x, y, w = spot
    teeth = [(-0.58, -0.62), (-0.28, -0.28), (0, -0.72), (0.28, -0.28), (0.58, -0.62), (0.48, 0.1)]
    points = [(x - 0.48 * w, y + 0.1 * w), *((x + a * w, y + b * w) for a, b in teeth)]
    return [
        poly(GOLD, *points),
        *(oval(RED, x + a * w, y - 0.08 * w, 0.08 * w) for a in (-0.28, 0.28)),
        oval(BLUE, x, y - 0.1 * w, 0.09 * w),
    ]


def _glasses(spot: Spot) -> list[Shape]:
    x, y, w = spot
    r = 0.25 * w + 0.025
    sides = (x - r - 0.02, x + r + 0.02)
    return [
        stroke(BLACK, 0.045, (x - 2.5 * r, y - 0.05), (x + 2.5 * r, y - 0.05)),
        *(oval((215, 238, 255), side, y, r) for side in sides),
        *(oval(BLACK, side, y + 0.01, 0.034) for side in sides),
        *(stroke(BLACK, 0.055, *_ring(side, y, r=r)) for side in sides),
    ]


def _ring(x: float, y: float, *, r: float) -> list[tuple[float, float]]:
    return [(x + r * math.cos(a * 0.7), y + r * math.sin(a * 0.7)) for a in range(10)]


def _bow_tie(spot: Spot) -> list[Shape]:
    x, y, w = spot
    w = max(w, 0.38)
    wing, tall = 0.6 * w, 0.36 * w
    return [
        poly(RED, (x, y), (x - wing, y - tall), (x - wing, y + tall)),
        poly(RED, (x, y), (x + wing, y - tall), (x + wing, y + tall)),
        oval(BLACK, x, y, 0.16 * w),
    ]


def _scarf(spot: Spot) -> list[Shape]:
    x, y, w = spot
    tail = x + 0.28 * w
    stripes = [y + 0.3 * w, y + 0.6 * w]
    return [
        stroke(GREEN, 0.34 * w, (tail, y), (tail + 0.04 * w, y + 0.85 * w)),
        stroke(
            GREEN,
            0.36 * w,
            (x - 0.55 * w, y - 0.04 * w),
            (x, y + 0.04 * w),
            (x + 0.55 * w, y - 0.04 * w),
        ),
        *(stroke(WHITE, 0.1 * w, (tail - 0.14 * w, s), (tail + 0.2 * w, s)) for s in stripes),
        *(
            stroke(WHITE, 0.1 * w, (x + a * w, y - 0.14 * w), (x + a * w, y + 0.16 * w))
            for a in (-0.36, 0)
        ),
    ]


def _flag(x: float, y: float) -> list[Shape]:
    top, out = y - 0.56, 0.38 * _away(x)
    return [
        stroke(WOOD, 0.045, (x, y + 0.14), (x, top)),
        poly(BLUE, (x, top), (x + out, top + 0.02), (x + out, top + 0.3), (x, top + 0.28)),
        box(WHITE, x + 0.05 * out, top + 0.11, x + out, top + 0.18),
        box(WHITE, x + 0.3 * out, top + 0.01, x + 0.48 * out, top + 0.29),
    ]


def _umbrella(x: float, y: float) -> list[Shape]:
    x, rim = x + 0.1 * _away(x), y - 0.28
    return [
        stroke(
            WOOD, 0.04, (x, rim - 0.2), (x, y + 0.12), (x + 0.05, y + 0.17), (x + 0.1, y + 0.12)
        ),
        dome(RED, x, rim, 0.32, 0.3),
        dome(WHITE, x, rim, 0.18, 0.3),
        dome(RED, x, rim, 0.07, 0.3),
    ]


def _away(x: float) -> float:
    """Which way is away from the subject's middle: 1 right, -1 left."""
    return 1.0 if x > 0.45 else -1.0


def _balloon(x: float, y: float) -> list[Shape]:
    return [
        stroke(BLACK, 0.025, (x, y + 0.06), (x + 0.05, y - 0.12), (x + 0.03, y - 0.3)),
        poly(MAGENTA, (x + 0.03, y - 0.34), (x - 0.02, y - 0.26), (x + 0.08, y - 0.26)),
        oval(MAGENTA, x + 0.03, y - 0.5, 0.17, 0.2),
        oval(WHITE, x - 0.03, y - 0.57, 0.035, 0.06, 20),
    ]


def _lantern(x: float, y: float) -> list[Shape]:
    return [
        stroke(BLACK, 0.035, (x - 0.09, y + 0.02), (x, y - 0.1), (x + 0.09, y + 0.02)),
        poly(
            BLACK,
            (x - 0.14, y + 0.06),
            (x - 0.07, y - 0.03),
            (x + 0.07, y - 0.03),
            (x + 0.14, y + 0.06),
        ),
        box(BLACK, x - 0.13, y + 0.05, x + 0.13, y + 0.36),
        box((255, 235, 110), x - 0.085, y + 0.09, x + 0.085, y + 0.3),
        oval((255, 150, 40), x, y + 0.21, 0.045, 0.07),
    ]


_ON_CROWN = {"top hat": _top_hat, "crown": _crown}
_ON_EYES = {"glasses": _glasses}
_ON_NECK = {"bow tie": _bow_tie, "scarf": _scarf}
_IN_HAND = {"flag": _flag, "umbrella": _umbrella, "balloon": _balloon, "lantern": _lantern}

ACCESSORIES = (
    "top hat", "glasses", "bow tie", "flag", "umbrella", "crown", "scarf", "balloon", "lantern",
)  # fmt: skip
HELD_OUT_ACCESSORIES = ("crown", "scarf", "balloon", "lantern")


@cache
def accessory_shapes(name: str, subject: str) -> tuple[Shape, ...]:
    """The accessory where this subject wears it, in the subject's unit box."""
    anchors = where(subject)
    if name in _ON_CROWN:
        return tuple(_ON_CROWN[name](anchors.crown))
    if name in _ON_EYES:
        return tuple(_ON_EYES[name](anchors.eyes))
    if name in _ON_NECK:
        return tuple(_ON_NECK[name](anchors.neck))
    return tuple(_IN_HAND[name](*anchors.hand))
