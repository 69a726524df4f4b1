"""Draw a schedule as a chart.

Steps go from left to right, blocks of the UNet from top to bottom; each adapter has a colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

from studio.requests.shot import Shot
from ui.web.frontend import template
from ui.web.mix.html import COLOURS
from ui.worker.schedule_summary import PassSummary, ScheduleSummary

BLOCK_HEIGHT = 10  # in units of the SVG, with a gap of 1 above and below
PASS_WIDTH = 12


@dataclass(frozen=True)
class _Path:
    """All boxes of one colour. pale: whether their passes reuse deep features."""

    colour: int
    pale: bool
    boxes: list[str] = field(default_factory=list)


def chart(summary: ScheduleSummary) -> str:
    """The chart as HTML. It fills the available width."""
    passes = [each for step in summary.steps for each in step]
    return template("mix/schedule.html").render(
        summary=summary,
        cost=summary.cost,
        steps=len(summary.steps),
        ratio=_ratio(summary.cost, summary.plain_cost),
        paths=_paths(summary.blocks, passes),
        width=max(1, len(passes)) * PASS_WIDTH,
        height=max(1, len(summary.blocks)) * BLOCK_HEIGHT,
        block_height=BLOCK_HEIGHT,
        reason="",
        colours=COLOURS,
    )


def no_chart(shot: Shot, reason: str) -> str:
    """The reason why there is no chart, and the least that the shot can cost."""
    steps, cost = sum(shot.passes), sum(shot.evaluations())
    return template("mix/schedule.html").render(
        summary=None, cost=cost, steps=steps, ratio=_ratio(cost, cost), reason=reason
    )


def _ratio(cost: float, plain: int) -> str:
    ratio = cost / max(plain, 1)
    if ratio == 1:
        return "as many as without adapters"
    return f"{ratio:.3g} times as many as without adapters"


def _paths(blocks: Sequence[str], passes: Sequence[PassSummary]) -> list[_Path]:
    """The boxes of the chart. Equal passes in a row share a box, which keeps the HTML small."""
    paths: dict[tuple[int, bool], _Path] = {}
    for row in range(len(blocks)):
        x = 0
        for (parts, pale), equal in groupby(passes, key=partial(_appearance, row)):
            width = PASS_WIDTH * len(list(equal))
            y = row * BLOCK_HEIGHT + 1.0
            for adapter, part in parts:
                height = round(part * (BLOCK_HEIGHT - 2), 2)
                key = adapter % COLOURS, pale
                box = f"M{x} {y:g}h{width}v{height:g}h-{width}z"
                paths.setdefault(key, _Path(*key)).boxes.append(box)
                y += height
            x += width
    return list(paths.values())


def _appearance(row: int, each: PassSummary) -> tuple[tuple[tuple[int, float], ...], bool]:
    """The adapters that change a block in a pass, each with its part of the height; and `pale`."""
    shares = each.shares[row]
    whole = max(sum(shares), 1.0)
    parts = tuple((adapter, share / whole) for adapter, share in enumerate(shares) if share)
    return parts, each.shallow
