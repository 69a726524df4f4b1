"""Masks of a shot's regions in the size of its latents; together with the rest they sum to 1.

PyTorch isn't imported here, since schedules are made without it.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compose.engine.regions.crops import Box, Grid
from studio.requests.regions import Region, open_mask

Masks = NDArray[np.float32]
LEAST = 1e-6  # a sum of masks below this counts as zero
SLIVER = 0.005  # a rest below this share of the picture is left to the regions
# The rest is measured in masks of this size, as plans are made before a picture's size is known.
MEASURED = (64, 64)


@lru_cache(maxsize=64)
def region_masks(
    regions: tuple[Region, ...], side: tuple[int, int], *, blur: float, whole: float
) -> Masks:
    """The masks of N regions, [N, h, w], or with the rest behind them, [N + 1, h, w]; sum 1.

    Overlapping regions share their pixels equally. side: height and width. blur: the standard
    deviation of the soft edges, as a share of the shorter side. whole: the weight of the rest
    inside of regions.
    """
    inside = _insides(regions, side)
    if whole == 0 and _rest(_insides(regions, MEASURED)).mean() < SLIVER:
        return normalized(soften(inside, blur * min(side)))
    masks = normalized(soften(np.concatenate([inside, _rest(inside)[None]]), blur * min(side)))
    return shared(masks, whole)


def cropped(masks: Masks, boxes: Sequence[Box], grid: Grid) -> Masks:
    """The masks [N, h, w], each set to 0 outside of its box's crop, and normalized to a sum of 1.

    Where no mask is left, all boxes whose crops are there get equal weights. boxes: together they
    cover the whole picture.
    """
    if all(box.is_whole for box in boxes):
        return masks
    within = np.zeros_like(masks)
    for box, own in zip(boxes, within, strict=True):
        own[grid.crop(box)] = 1
    inside = masks * within
    return normalized(np.where(inside.sum(0) > LEAST, inside, within))


def shared(masks: Masks, whole: float) -> Masks:
    """The masks [N + 1, h, w], with the share `whole` of the first N moved to the last one."""
    inside = (1 - whole) * masks[:-1]
    return np.concatenate([inside, masks[-1:] + whole * masks[:-1].sum(0)])


def normalized(masks: Masks) -> Masks:
    """The masks [N, h, w] scaled to a sum of 1; where all are 0, they get equal weights."""
    total = masks.sum(0)
    whole = np.where(total > LEAST, masks / np.maximum(total, LEAST), 1 / len(masks))
    return whole.astype(np.float32)


def soften(masks: Masks, deviation: float) -> Masks:
    """Masks [N, h, w] under a Gaussian blur that keeps the picture's borders. deviation: pixels."""
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
    """The share of each latent pixel that belongs to each region, [N, h, w]."""
    inside = np.stack([_inside(region, side) for region in regions])
    return inside / np.maximum(inside.sum(0), 1)


def _rest(inside: Masks) -> Masks:
    """The share of each latent pixel that belongs to no region, [h, w]."""
    return 1 - inside.sum(0)


def _inside(region: Region, side: tuple[int, int]) -> Masks:
    """The share of each latent pixel that lies inside of a region, [h, w] in [0, 1]."""
    height, width = side
    if region.box is None:
        assert region.mask is not None
        mask = open_mask(region.mask).resize((width, height), Image.Resampling.BOX)
        return np.asarray(mask, dtype=np.float32) / np.float32(255)
    x0, y0, x1, y1 = region.box
    inside = np.outer(_covered(y0, y1, height), _covered(x0, x1, width))
    return inside.astype(np.float32)


def _covered(begin: float, end: float, count: int) -> NDArray[np.float64]:
    """The share of each of `count` pixels in a row that lies between two shares of the row."""
    return np.diff(np.arange(count + 1.0).clip(begin * count, end * count))
