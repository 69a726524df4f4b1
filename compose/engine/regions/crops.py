"""Parts of a picture that are evaluated as pictures of their own.

Mixture of Diffusers (Barbero Jimenez 2023, arXiv 2302.02412, section 3) and MultiDiffusion (Bar-Tal
et al. 2023, arXiv 2302.08113, equation 3) give the UNet a crop of the latents, so that what is
drawn there is composed for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in shares of the picture
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
FINE = 256  # pixels of a side, in which slivers are looked for: SDXL's latents of 2048 pixels


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
        x0, y0, x1, y1 = box
        return self._span(y0, y1, self.height), self._span(x0, x1, self.width)

    def _span(self, begin: float, end: float, whole: int) -> slice:
        """begin, end: shares of a side."""
        first, last = floor(begin * whole + 1e-6), ceil(end * whole - 1e-6)
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
    x0, y0, x1, y1 = boxes[place]
    pixel = 1 / FINE
    grown = (
        min(x0, float(columns[0])),
        min(y0, float(rows[0])),
        max(x1, float(columns[-1]) + pixel),
        max(y1, float(rows[-1]) + pixel),
    )
    return *boxes[:place], grown, *boxes[place + 1 :]


def _area(box: Box) -> float:
    x0, y0, x1, y1 = box
    return (x1 - x0) * (y1 - y0)
