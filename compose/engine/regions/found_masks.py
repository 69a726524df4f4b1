"""Attention maps -> masks that part a picture among what the maps are of.

FreeFuse (arXiv 2510.23515) takes each image token for the concept whose attention is strongest,
with as many tokens for each (a "balanced argmax"), and smooths by the self-attention's features.
Ours smooths by places: a base that knows pictures of one subject attends to both in the middle, and
the strongest alone would be scattered dots. Every pixel goes to the least

    -log share_j(x) + |x - c_j|^2 / (2 SPREAD^2) + b_j

with the share that concept j has in all attention at x, c_j the centre of what j has, and b_j such
that each has an equal part of the attention. Places and centres take turns, as in SLIC (Achanta et
al. 2012). Where attention tells concepts clearly apart it decides; elsewhere the nearest does.
"""

import numpy as np
from numpy.typing import NDArray

Maps = NDArray[np.float64]
SPREAD = 0.25  # of a concept, as a share of the picture's shorter side
TURNS, BALANCING = 8, 300


def part(maps: Maps) -> NDArray[np.intp]:
    """Which concept each pixel goes to, [h, w]. maps: attention [N, h, w], positive."""
    shares = maps / maps.mean((1, 2), keepdims=True)
    total = shares.sum(0)
    shares = shares / total
    weight = np.clip(total - total.mean(), 0, None)
    weight = weight / weight.sum() if weight.any() else np.full(weight.shape, 1 / weight.size)
    more = np.clip(shares - (shares * weight).sum((1, 2), keepdims=True), 0, None)
    owner = np.zeros(weight.shape, np.intp)
    for turn in range(TURNS):
        own = more if turn == 0 else (owner == np.arange(len(maps))[:, None, None])
        owner = _balanced(_distances(_centres(own * weight), weight.shape) - np.log(shares), weight)
    return owner


def _places(side: tuple[int, int]) -> Maps:
    """The centre of each pixel, y and x in shares of the shorter side: [2, h, w]."""
    return (np.indices(side) + 0.5) / min(side)


def _centres(weights: Maps) -> Maps:
    """The mean place under each of the weights [N, h, w]: [N, 2]."""
    total = np.maximum(weights.sum((1, 2)), 1e-12)[:, None]
    return np.einsum("nhw,dhw->nd", weights, _places(weights.shape[1:])) / total


def _distances(centres: Maps, side: tuple[int, ...]) -> Maps:
    """Squared distances to the centres, halved, in squares of SPREAD: [N, h, w]."""
    away = _places((side[0], side[1])) - centres[:, :, None, None]
    return (away**2).sum(1) / (2 * SPREAD**2)


def _balanced(costs: Maps, weight: Maps) -> NDArray[np.intp]:
    """The least of the costs [N, h, w], raised for those that get more than their part."""
    count = len(costs)
    raised = np.zeros(count)
    owner = costs.argmin(0)
    for step in range(BALANCING):
        parts = np.bincount(owner.ravel(), weight.ravel(), minlength=count)
        raised += (parts - 1 / count) * costs.std() * 0.3 * 0.98**step
        owner = (costs + raised[:, None, None]).argmin(0)
    return owner
