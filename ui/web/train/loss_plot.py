"""The course of a loss as a picture: an SVG of a few kilobytes, however long the training is."""

from collections.abc import Sequence
from math import ceil, floor, log10

__all__ = ["plot", "smoothed"]

MOST = 400  # points that are drawn
WIDTH, HEIGHT = 1000.0, 300.0  # of the drawing, which is stretched to its place
OUTLIERS = 0.02  # share of the points that may lie above the picture

Points = Sequence[tuple[int, float]]


def plot(points: Points, *, steps: int, marks: Sequence[int] = ()) -> str:
    """Losses as dots and their course as a line, as HTML; "" for fewer than two points.

    points: step and loss. steps: how many there will be. marks: steps to be marked, such as those
    of checkpoints.
    """
    if len(points) < 2:
        return ""
    course = smoothed(points)
    low, high, every = _range([loss for _, loss in points], [loss for _, loss in course])
    last = max(steps, points[-1][0], 1)

    def place(step: int, loss: float) -> str:
        x = WIDTH * step / last
        y = HEIGHT * (1 - (min(max(loss, low), high) - low) / (high - low))
        return f"{x:.1f},{y:.1f}"

    dots = " ".join(f"M{place(*point)}h0" for point in _thinned(points))
    line = " ".join(place(*point) for point in _thinned(course))
    upright = "".join(f'<path class="mark" d="M{WIDTH * s / last:.1f},0V{HEIGHT}"/>' for s in marks)
    rows = _ticks(low, high, every)
    across = "".join(
        f'<path class="grid" d="M0,{HEIGHT * (1 - (t - low) / (high - low)):.1f}H{WIDTH}"/>'
        for t in rows
    )
    labels = "".join(
        f'<span style="bottom:{100 * (t - low) / (high - low):.1f}%">{_said(t, every)}</span>'
        for t in rows
    )
    said = f"Loss {course[-1][1]:.4g} at step {points[-1][0]} of {last}"
    return (
        f'<div class="studio-plot" role="img" aria-label="{said}"><div class="y">{labels}</div>'
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" preserveAspectRatio="none" aria-hidden="true">'
        f'{across}{upright}<path class="dots" d="{dots}"/><polyline points="{line}"/></svg>'
        f'<div class="x"><span>0</span><span>loss by step</span><span>{last}</span></div></div>'
    )


def smoothed(points: Points) -> list[tuple[int, float]]:
    """The running mean, over a twentieth of the points but ten of them at least."""
    width = max(10, len(points) // 20)
    course, total = [], 0.0
    for number, (step, loss) in enumerate(points):
        total += loss
        if number >= width:
            total -= points[number - width][1]
        course.append((step, total / min(number + 1, width)))
    return course


def _thinned(points: Points) -> list[tuple[int, float]]:
    """At most so many of them, evenly spread, the last among them."""
    every = ceil(len(points) / MOST)
    return [point for n, point in enumerate(points) if (len(points) - 1 - n) % every == 0]


def _range(losses: list[float], course: list[float]) -> tuple[float, float, float]:
    """What the picture shows, from and to, and the distance of its lines."""
    high = max(sorted(losses)[floor((len(losses) - 1) * (1 - OUTLIERS))], *course)
    low = min(losses)
    every = _step((high - low) or abs(high) or 1.0)
    return floor(low / every) * every, (floor(high / every) + 1) * every, every


def _step(span: float) -> float:
    """One, two or five times a power of ten: a quarter to a half of the span or so."""
    power = 10.0 ** floor(log10(span / 3))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= span / 4)


def _ticks(low: float, high: float, every: float) -> list[float]:
    return [low + n * every for n in range(round((high - low) / every) + 1)]


def _said(tick: float, every: float) -> str:
    return f"{tick:.{max(0, -floor(log10(every)))}f}"
