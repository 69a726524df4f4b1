"""The loss plot: an SVG of a few kilobytes, however long the training is.

`gr.LinePlot` draws a single kind of mark: it has no marks of checkpoints and no dots behind the
mean. It also builds its Vega view anew at every update.
"""

from collections.abc import Sequence
from math import ceil, floor, log10

from ui.web.frontend import template

MOST_POINTS = 400  # the most dots in the plot
WIDTH, HEIGHT = 1000, 300  # units of the SVG, which the page stretches
OUTLIERS = 0.02  # share of the points that may lie above the top of the plot

Points = Sequence[tuple[int, float]]


def loss_plot(points: Points, *, steps: int, checkpoints: Sequence[int] = ()) -> str:
    """Losses by step with their running mean, as HTML; "" for fewer than two points.

    points: step and loss. steps: of the whole training. checkpoints: the steps that have one.
    """
    if len(points) < 2:
        return ""
    mean = running_mean(points)
    low, high, spacing = _range([loss for _, loss in points], [loss for _, loss in mean])
    last = max(steps, points[-1][0], 1)

    def place(points: Points) -> list[tuple[float, float]]:
        return [
            (WIDTH * step / last, HEIGHT * (high - min(max(loss, low), high)) / (high - low))
            for step, loss in _thinned(points)
        ]

    return template("train/loss_plot.html").render(
        loss=mean[-1][1],
        step=points[-1][0],
        last=last,
        width=WIDTH,
        height=HEIGHT,
        ticks=_ticks(low, high, spacing),
        checkpoints=checkpoints,
        dots=place(points),
        mean=place(mean),
    )


def running_mean(points: Points) -> list[tuple[int, float]]:
    """At each point the mean of the last n points; n is a twentieth of all, but at least 10."""
    width = max(10, len(points) // 20)
    means, total = [], 0.0
    for number, (step, loss) in enumerate(points):
        total += loss
        if number >= width:
            total -= points[number - width][1]
        means.append((step, total / min(number + 1, width)))
    return means


def _thinned(points: Points) -> list[tuple[int, float]]:
    """At most MOST_POINTS of the points, evenly spaced, with the last one."""
    return list(points[:: -ceil(len(points) / MOST_POINTS)])[::-1]


def _range(losses: list[float], means: list[float]) -> tuple[float, float, float]:
    """The lowest and highest loss in the plot, and the spacing of its ticks."""
    high = max(sorted(losses)[floor((len(losses) - 1) * (1 - OUTLIERS))], *means)
    low = min(losses)
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** floor(log10(span / 3))
    spacing = next(n * power for n in (1, 2, 5, 10) if n * power >= span / 4)
    return floor(low / spacing) * spacing, (floor(high / spacing) + 1) * spacing, spacing


def _ticks(low: float, high: float, spacing: float) -> list[tuple[float, str]]:
    """Each tick's height, from 0 to 1, and its label."""
    count, digits = round((high - low) / spacing), max(0, -floor(log10(spacing)))
    return [(n / count, f"{low + n * spacing:.{digits}f}") for n in range(count + 1)]
