"""Masks of a shot's regions in the size of its latents; together with the rest they sum to one.

PyTorch isn't imported here, since a schedule is told without it.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compose.engine.regions.crops import Box, Grid
from studio.requests.regions import Region, open_mask

Masks = NDArray[np.float32]
LEAST = 1e-6  # of a sum of masks; below it is none
SLIVER = 0.005  # of the picture: a rest that is smaller is left to the regions
# The latents in which it is measured, of whatever size the picture is: a plan is made without one.
MEASURED = (64, 64)


@lru_cache(maxsize=64)
def region_masks(
    regions: tuple[Region, ...], side: tuple[int, int], *, blur: float, whole: float
) -> Masks:
    """[N, h, w] of N regions, or [N + 1, h, w] with the rest behind them; they sum to 1.

    Where regions overlap, they share. side: height and width. blur: the standard deviation of the
    soft edges, as a share of the shorter side. whole: how much the rest counts inside of regions.
    """
    inside = _insides(regions, side)
    if whole == 0 and _rest(_insides(regions, MEASURED)).mean() < SLIVER:
        return normalized(soften(inside, blur * min(side)))
    masks = normalized(soften(np.concatenate([inside, _rest(inside)[None]]), blur * min(side)))
    return shared(masks, whole)


def cropped(masks: Masks, boxes: Sequence[Box], grid: Grid) -> Masks:
    """The same masks [N, h, w], each 0 outside of the crop of its box; they sum to 1 again.

    Where none is left, all whose crops are there count alike. boxes: all of the picture in some.
    """
    if all(box.is_whole for box in boxes):
        return masks
    within = np.zeros_like(masks)
    for box, own in zip(boxes, within, strict=True):
        own[grid.crop(box)] = 1
    inside = masks * within
    return normalized(np.where(inside.sum(0) > LEAST, inside, within))


def shared(masks: Masks, whole: float) -> Masks:
    """The same masks [N + 1, h, w], with a share of what the others have for the last one."""
    inside = (1 - whole) * masks[:-1]
    return np.concatenate([inside, masks[-1:] + whole * masks[:-1].sum(0)])


def normalized(masks: Masks) -> Masks:
    """The same masks [N, h, w] with a sum of 1; where there is none, all count alike."""
    total = masks.sum(0)
    whole = np.where(total > LEAST, masks / np.maximum(total, LEAST), 1 / len(masks))
    return whole.astype(np.float32)


def soften(masks: Masks, deviation: float) -> Masks:
    """Masks [N, h, w] under a Gaussian; the picture's own edges stay hard. deviation: in pixels."""
    if deviation <= 0:
        return masks
    reach = max(1, round(3 * deviation))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    kernel /= kernel.sum()
    for axis in (1, 2):
        margin = [(0, 0)] * 3
        margin[axis] = (reach, reach)
        wide = np.pad(masks, margin, mode="edge")
        masks = np.apply_along_axis(np.convolve, axis, wide, kernel, mode="valid")
    return masks.astype(np.float32)


def _insides(regions: tuple[Region, ...], side: tuple[int, int]) -> Masks:
    """How much of each latent pixel is each region's, [N, h, w]; where they overlap, they share."""
    inside = np.stack([_inside(region, side) for region in regions])
    return inside / np.maximum(inside.sum(0), 1)


def _rest(inside: Masks) -> Masks:
    """What is left of each latent pixel, [h, w]."""
    return 1 - inside.sum(0)


def _inside(region: Region, side: tuple[int, int]) -> Masks:
    """How much of each latent pixel lies inside, [h, w] in 0 .. 1."""
    height, width = side
    if region.box is None:
        assert region.mask is not None
        mask = open_mask(region.mask).resize((width, height), Image.Resampling.BOX)
        return np.asarray(mask, dtype=np.float32) / np.float32(255)
    x0, y0, x1, y1 = region.box
    inside = np.outer(_covered(y0, y1, height), _covered(x0, x1, width))
    return inside.astype(np.float32)


def _covered(begin: float, end: float, count: int) -> NDArray[np.float64]:
    """Of `count` pixels in a row, how much of each lies between two shares of the row."""
    return np.diff(np.arange(count + 1.0).clip(begin * count, end * count))
