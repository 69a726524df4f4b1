"""A roll as a picture in the page: steps from left to right, blocks of the UNet down, a colour for
each adapter."""

from collections.abc import Iterator
from html import escape
from itertools import groupby

from ui.worker.schedule_summary import Bar, Roll

__all__ = ["COLOURS", "score", "untold"]

COLOURS = 6  # classes c0 to c5 of the style sheet
HIGH = 10  # of a block, in the picture's own units
WIDE = 12  # of a pass
Fill = tuple[tuple[int, float], ...]


def score(roll: Roll) -> str:
    """It, as HTML; it is as wide as there is room."""
    if not roll.adapters:
        return f'<div class="mix-score"><div class="cost">{cost_of(roll)}</div></div>'
    bars = [bar for step in roll.steps for bar in step]
    paths = "".join(_paths(roll, bars))
    width, height = max(1, len(bars)) * WIDE, max(1, len(roll.blocks)) * HIGH
    labels = "".join(f"<span>{escape(block)}</span>" for block in roll.blocks)
    legend = "".join(
        f'<span><i class="c{at % COLOURS}"></i>{escape(name)}</span>'
        for at, name in enumerate(roll.adapters)
    )
    return (
        f'<div class="mix-score"><div class="cost">{cost_of(roll)}</div>'
        f'<div class="plot"><div class="blocks">{labels}</div>'
        f'<svg role="img" aria-label="{escape(_aloud(roll))}" viewBox="0 0 {width} {height}" '
        f'preserveAspectRatio="none" style="height:{len(roll.blocks) * 14}px">{paths}</svg></div>'
        f'<div class="ends"><span>step 1</span><span>step {len(roll.steps)}</span></div>'
        f'<div class="legend">{legend}</div></div>'
    )


def untold(passes: int, said: str) -> str:
    """What stands in its place while the weights have not been looked at."""
    return (
        f'<div class="mix-score"><div class="cost">{_evaluations(passes, passes)}</div>'
        f'<div class="quiet">{escape(said)}</div></div>'
    )


def cost_of(roll: Roll) -> str:
    """Such as "50 evaluations of the UNet in 25 steps, 2 x a plain picture"."""
    return _evaluations(roll.cost, len(roll.steps))


def _evaluations(cost: float, steps: int) -> str:
    ratio = cost / max(steps, 1)
    more = (
        "the cost of a plain picture"
        if ratio == 1
        else f"{ratio:.3g} times that of a plain picture"
    )
    return f"<b>{cost:g}</b> evaluations of the UNet in {steps} steps, {more}"


def _aloud(roll: Roll) -> str:
    names = ", ".join(roll.adapters) or "no adapter"
    return f"Which adapter changes which block at which step: {names}"


def _paths(roll: Roll, bars: list[Bar]) -> Iterator[str]:
    """One path for each colour, full and pale; neighbouring passes that are alike are one box."""
    drawn: dict[tuple[int, bool], list[str]] = {}
    for row in range(len(roll.blocks)):
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
                for row in range(len(roll.blocks) + 1))  # fmt: skip


def _fill(bar: Bar, row: int) -> Fill:
    """The adapters that change a block in a pass, and their parts of its height."""
    shares = bar.worn[row]
    whole = max(sum(shares), 1.0)
    return tuple((at, share / whole) for at, share in enumerate(shares) if share)
