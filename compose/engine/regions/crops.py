"""Parts of a picture that are evaluated as pictures of their own.

Mixture of Diffusers (Barbero Jimenez 2023, arXiv 2302.02412, section 3) and MultiDiffusion (Bar-Tal
et al. 2023, arXiv 2302.08113, equation 3) give the UNet a crop of the latents, so that what is
drawn there is composed for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import NamedTuple

FINE = 256  # pixels of a side, in which slivers are looked for: SDXL's latents of 2048 pixels


class Box(NamedTuple):
    """A part of the picture, from x0, y0 at its top left, in shares of the width and height.

    margin: how far what is evaluated for it reaches beyond it, as a share of the shorter side.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    margin: float = 0.0

    @property
    def is_whole(self) -> bool:
        return self[:4] == (0, 0, 1, 1)


WHOLE = Box(0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Grid:
    """The latents of a picture, by their height and width.

    step: sides of what the UNet is given are multiples of it. trained: the side of the latents that
    the base was trained on.
    """

    height: int
    width: int
    step: int = 1
    trained: int = 0

    @property
    def side(self) -> tuple[int, int]:
        return self.height, self.width

    def crop(self, box: Box) -> tuple[slice, slice]:
        """The rows and columns that are evaluated for a box: all that it touches, and more.

        A base draws nothing in a picture that is much smaller than those it knows: a crop has half
        their side at least, where the picture has it.
        """
        margin = round(box.margin * min(self.side))
        rows = self._span(box.y0, box.y1, self.height, margin)
        return rows, self._span(box.x0, box.x1, self.width, margin)

    def _span(self, begin: float, end: float, whole: int, margin: int) -> slice:
        """begin, end: shares of a side. whole, margin: in latents."""
        first = max(0, floor(begin * whole + 1e-6) - margin)
        last = min(whole, ceil(end * whole - 1e-6) + margin)
        length = max(last - first, self.trained // 2)
        length = min(whole, -(-length // self.step) * self.step)
        first = min(max(0, round((first + last - length) / 2)), whole - length)
        return slice(first, first + length)


def covering(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """The same boxes, the largest grown so that no part of the picture is in none of them.

    Slivers between regions belong to no rest, and need a prediction as well.
    """
    import numpy as np

    outside = np.ones((FINE, FINE), bool)
    fine = Grid(FINE, FINE)
    for box in boxes:
        outside[fine.crop(box)] = False
    if not outside.any():
        return tuple(boxes)
    rows, columns = (np.flatnonzero(outside.any(axis)) / FINE for axis in (1, 0))
    place = max(range(len(boxes)), key=lambda at: _area(boxes[at]))
    own, pixel = boxes[place], 1 / FINE
    grown = Box(
        min(own.x0, float(columns[0])),
        min(own.y0, float(rows[0])),
        max(own.x1, float(columns[-1]) + pixel),
        max(own.y1, float(rows[-1]) + pixel),
    )
    return *boxes[:place], grown, *boxes[place + 1 :]


def _area(box: Box) -> float:
    return (box.x1 - box.x0) * (box.y1 - box.y0)
