"""From attention maps to masks: each pixel of the picture is assigned to one concept.

FreeFuse (arXiv 2510.23515) assigns each image token to the concept with the strongest attention,
with equally many tokens for each concept (a "balanced argmax"), and smooths the result by
self-attention features. Here distance does the smoothing: a base that has only seen single subjects
attends to both concepts in the middle, and the strongest attention alone would give scattered dots.
Pixel x goes to the concept j with the least

    -log share_j(x) + |x - c_j|^2 / (2 SPREAD^2) + b_j

where share_j(x) is the concept's share of all attention at x, c_j the centre of its pixels, and b_j
is chosen such that every concept gets an equal part of the attention. Assignments and centres are
updated in turn, as in SLIC (Achanta et al. 2012). Where attention separates concepts clearly, it
decides; elsewhere the nearest centre does.
"""

import numpy as np
from numpy.typing import NDArray

Maps = NDArray[np.float64]
SPREAD = 0.25  # scale of the distance term, as a share of the picture's shorter side
TURNS, BALANCING = 8, 300  # updates of the centres, and updates of b_j in each of them


def part(maps: Maps) -> NDArray[np.intp]:
    """The concept of each pixel, [h, w]. maps: positive attention [N, h, w]."""
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
    """The coordinates of each pixel's centre, y and x in shares of the shorter side: [2, h, w]."""
    return (np.indices(side) + 0.5) / min(side)


def _centres(weights: Maps) -> Maps:
    """The weighted mean of the coordinates: weights [N, h, w] -> [N, 2]."""
    total = np.maximum(weights.sum((1, 2)), 1e-12)[:, None]
    return np.einsum("nhw,dhw->nd", weights, _places(weights.shape[1:])) / total


def _distances(centres: Maps, side: tuple[int, ...]) -> Maps:
    """|x - c_j|^2 / (2 SPREAD^2) for every pixel: [N, h, w]."""
    away = _places((side[0], side[1])) - centres[:, :, None, None]
    return (away**2).sum(1) / (2 * SPREAD**2)


def _balanced(costs: Maps, weight: Maps) -> NDArray[np.intp]:
    """The concept with the least cost + b_j at each pixel. costs: [N, h, w].

    b_j is raised for concepts that get more than an equal part of `weight`.
    """
    count = len(costs)
    raised = np.zeros(count)
    owner = costs.argmin(0)
    for step in range(BALANCING):
        parts = np.bincount(owner.ravel(), weight.ravel(), minlength=count)
        raised += (parts - 1 / count) * costs.std() * 0.3 * 0.98**step
        owner = (costs + raised[:, None, None]).argmin(0)
    return owner
