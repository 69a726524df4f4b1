"""Crops: parts of a picture that the UNet sees as pictures of their own.

Mixture of Diffusers (Barbero Jimenez 2023, arXiv 2302.02412, section 3) and MultiDiffusion (Bar-Tal
et al. 2023, arXiv 2302.08113, equation 3) give the UNet a crop of the latents, so that it composes
a picture for that crop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import NamedTuple

# Side of the grid on which uncovered slivers are looked for: SDXL's latents at 2048 pixels.
FINE = 256


class Box(NamedTuple):
    """A part of the picture, with x0, y0 at its top left, in shares of the width and height.

    margin: how far its crop reaches beyond it, as a share of the picture's shorter side.
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
    """Height and width of a picture's latents.

    step: sides of crops are multiples of it. trained: the side of the latents that the base was
    trained on.
    """

    height: int
    width: int
    step: int = 1
    trained: int = 0

    @property
    def side(self) -> tuple[int, int]:
        return self.height, self.width

    def crop(self, box: Box) -> tuple[slice, slice]:
        """The rows and columns of a box's crop: all pixels that the box touches, and the margin.

        A base draws nothing useful in pictures much smaller than those it was trained on. So a crop
        has at least half of their side, where the picture is large enough.
        """
        margin = round(box.margin * min(self.side))
        rows = self._span(box.y0, box.y1, self.height, margin)
        return rows, self._span(box.x0, box.x1, self.width, margin)

    def _span(self, begin: float, end: float, whole: int, margin: int) -> slice:
        """The crop along one axis. begin, end: shares of the side. whole, margin: latent pixels."""
        first = max(0, floor(begin * whole + 1e-6) - margin)
        last = min(whole, ceil(end * whole - 1e-6) + margin)
        length = max(last - first, self.trained // 2)
        length = min(whole, -(-length // self.step) * self.step)
        first = min(max(0, round((first + last - length) / 2)), whole - length)
        return slice(first, first + length)


def covering(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """The boxes, with the largest one extended until the boxes cover the whole picture.

    Thin gaps between regions need a prediction too, but no rest is drawn for them.
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
