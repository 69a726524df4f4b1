"""A schedule as a chart in the page: steps go right, UNet blocks go down, adapters are colours."""

from collections.abc import Iterator
from html import escape
from itertools import groupby

from ui.worker.schedule_summary import PassSummary, ScheduleSummary

__all__ = ["COLOURS", "score", "untold"]

COLOURS = 6  # classes c0 to c5 of the style sheet
HIGH = 10  # of a block, in the picture's own units
WIDE = 12  # of a pass
Fill = tuple[tuple[int, float], ...]


def score(summary: ScheduleSummary) -> str:
    """It, as HTML; it is as wide as there is room."""
    if not summary.adapters:
        return f'<div class="mix-score"><div class="cost">{cost_of(summary)}</div></div>'
    bars = [bar for step in summary.steps for bar in step]
    paths = "".join(_paths(summary, bars))
    width, height = max(1, len(bars)) * WIDE, max(1, len(summary.blocks)) * HIGH
    labels = "".join(f"<span>{escape(block)}</span>" for block in summary.blocks)
    legend = "".join(
        f'<span><i class="c{at % COLOURS}"></i>{escape(name)}</span>'
        for at, name in enumerate(summary.adapters)
    )
    return (
        f'<div class="mix-score"><div class="cost">{cost_of(summary)}</div>'
        f'<div class="plot"><div class="blocks">{labels}</div>'
        f'<svg role="img" aria-label="{escape(_aloud(summary))}" viewBox="0 0 {width} {height}" '
        f'preserveAspectRatio="none" style="height:{len(summary.blocks) * 14}px">'
        f"{paths}</svg></div>"
        f'<div class="ends"><span>step 1</span><span>step {len(summary.steps)}</span></div>'
        f'<div class="legend">{legend}</div></div>'
    )


def untold(passes: int, said: str) -> str:
    """What stands in its place while the weights have not been looked at."""
    return (
        f'<div class="mix-score"><div class="cost">{_evaluations(passes, passes)}</div>'
        f'<div class="quiet">{escape(said)}</div></div>'
    )


def cost_of(summary: ScheduleSummary) -> str:
    """Such as "50 evaluations of the UNet in 25 steps, 2 x a plain picture"."""
    return _evaluations(summary.cost, len(summary.steps))


def _evaluations(cost: float, steps: int) -> str:
    ratio = cost / max(steps, 1)
    more = (
        "the cost of a plain picture"
        if ratio == 1
        else f"{ratio:.3g} times that of a plain picture"
    )
    return f"<b>{cost:g}</b> evaluations of the UNet in {steps} steps, {more}"


def _aloud(summary: ScheduleSummary) -> str:
    names = ", ".join(summary.adapters) or "no adapter"
    return f"Which adapter changes which block at which step: {names}"


def _paths(summary: ScheduleSummary, bars: list[PassSummary]) -> Iterator[str]:
    """One path for each colour, full and pale; neighbouring passes that are alike are one box."""
    drawn: dict[tuple[int, bool], list[str]] = {}
    for row in range(len(summary.blocks)):
        x = 0
        for (fill, shallow), alike in groupby(bars, key=lambda bar: (_fill(bar, row), bar.shallow)):
            wide = WIDE * len(list(alike))
            y = row * HIGH + 1.0
            for at, share in fill:
                high = round(share * (HIGH - 2), 2)
                box = f"M{x} {y:g}h{wide}v{high:g}h-{wide}z"
                drawn.setdefault((at % COLOURS, shallow), []).append(box)
                y += high
            x += wide
    for (colour, shallow), boxes in drawn.items():
        yield f'<path class="c{colour}{" pale" if shallow else ""}" d="{"".join(boxes)}"/>'
    yield from (f'<path class="line" d="M0 {row * HIGH}h{len(bars) * WIDE}"/>'
                for row in range(len(summary.blocks) + 1))  # fmt: skip


def _fill(bar: PassSummary, row: int) -> Fill:
    """The adapters that change a block in a pass, and their parts of its height."""
    shares = bar.shares[row]
    whole = max(sum(shares), 1.0)
    return tuple((at, share / whole) for at, share in enumerate(shares) if share)
