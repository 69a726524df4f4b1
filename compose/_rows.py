"""Rows of one batch that wear different changes, so that several mixes are one call of the UNet.

What no row changes, most of a UNet, runs over the whole batch at once. A layer that rows change
differently runs once with the base's own weight too, and the low-rank changes of all rows are added
in one product more, so that neither time nor memory grows with the number of different adapters.
Changes of other forms are folded into weights, and each stretch of rows goes through its own.

Made ready once, put on and taken off at every step: both swap pointers only.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studio.delta import Layer

__all__ = ["Factors", "Fitting", "Stretch", "Worn", "fit"]

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Factors:
    """A change to a weight that is up @ down, with all strengths multiplied in.

    down: [rank, in(, kh, kw)].  up: [out, rank].
    """

    down: Tensor
    up: Tensor


# By the layer's name: the whole changed weight, or factors beside its own; with ".bias" behind the
# name, the layer's changed bias.
Worn = Mapping[str, Tensor | Factors]


@dataclass(frozen=True, eq=False)
class Stretch:
    """So many consecutive rows of a batch, and what they wear."""

    rows: int
    worn: Worn


@dataclass(frozen=True, eq=False)
class Fitting:
    """Changes made ready. swaps: tensors and what stands in for them. forwards: by layer."""

    swaps: Sequence[tuple[Tensor, Tensor]]
    forwards: Sequence[tuple[nn.Module, Forward]]

    @contextmanager
    def worn(self) -> Iterator[None]:
        """The base changed until the block is left; afterwards the very same storage is back."""
        kept = [own.data for own, _ in self.swaps]
        try:
            for own, other in self.swaps:
                own.data = other
            for layer, forward in self.forwards:
                vars(layer)["forward"] = forward
            yield
        finally:
            for (own, _), before in zip(self.swaps, kept, strict=True):
                own.data = before
            for layer, _ in self.forwards:
                vars(layer).pop("forward", None)


def fit(layers: Mapping[str, nn.Module], stretches: Sequence[Stretch]) -> Fitting:
    """Make ready what the rows of a batch wear, stretch by stretch in their order.

    Every layer is to be without a `forward` of its own (studio.delta.attach gives it one).
    """
    swaps: list[tuple[Tensor, Tensor]] = []
    forwards: list[tuple[nn.Module, Forward]] = []
    for name in _names(layers, stretches):
        layer = cast(Layer, layers[name])
        weights = [stretch.worn.get(name) for stretch in stretches]
        biases = [cast(Tensor | None, one.worn.get(f"{name}.bias")) for one in stretches]
        if all(one is weights[0] for one in weights) and all(one is biases[0] for one in biases):
            if isinstance(weights[0], Tensor):
                swaps.append((layer.weight, weights[0]))
            if biases[0] is not None:
                swaps.append((cast(Tensor, layer.bias), biases[0]))
            if not isinstance(weights[0], Factors):
                continue
        forwards.append((layer, _forward(layer, stretches, weights, biases)))
    return Fitting(swaps, forwards)


def _names(layers: Mapping[str, nn.Module], stretches: Sequence[Stretch]) -> list[str]:
    """The layers that any row changes."""
    names = (name for stretch in stretches for name in stretch.worn)
    return list(dict.fromkeys(n if n in layers else n.removesuffix(".bias") for n in names))


def _forward(
    layer: Layer,
    stretches: Sequence[Stretch],
    weights: Sequence[Tensor | Factors | None],
    biases: Sequence[Tensor | None],
) -> Forward:
    rows = [stretch.rows for stretch in stretches]
    whole = [weight if isinstance(weight, Tensor) else layer.weight for weight in weights]
    own_bias = [layer.bias if bias is None else bias for bias in biases]
    plain = _apart(layer, rows, whole, own_bias)
    factors = [weight if isinstance(weight, Factors) else None for weight in weights]
    if not any(factors):
        return plain
    low_rank = _beside(layer, rows, factors)
    return lambda x: low_rank(x, plain(x))


def _apart(
    layer: Layer, rows: Sequence[int], weights: Sequence[Tensor], biases: Sequence[Tensor | None]
) -> Forward:
    """Each stretch through its own weight; neighbours that share one go together."""
    stretches = zip(rows, weights, biases, strict=True)
    runs = [
        (sum(stretch[0] for stretch in inside), *inside[0][1:])
        for inside in (
            list(run) for _, run in groupby(stretches, key=lambda one: (id(one[1]), id(one[2])))
        )
    ]
    counts = [count for count, _, _ in runs]
    if len(runs) == 1:
        _, weight, bias = runs[0]
        return lambda x: _through(layer, x, weight, bias)
    return lambda x: torch.cat(
        [
            _through(layer, part, weight, bias)
            for part, (_, weight, bias) in zip(x.split(counts), runs, strict=True)
        ]
    )


def _through(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation)


def _beside(
    layer: Layer, rows: Sequence[int], factors: Sequence[Factors | None]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Adds every row's own low-rank change to what the layer gave: (x, its output) -> the sum.

    Lower ranks, and stretches without a change, are filled up with zeros.
    """
    down, up = _stacked(layer, factors)  # -> [S, rank, in(, kh, kw)], [S, out, rank]
    if len(set(rows)) > 1:  # products of equal sizes are one product: one stretch for each row
        each = torch.tensor(rows, device=down.device)
        down, up = down.repeat_interleave(each, 0), up.repeat_interleave(each, 0)
    count, ranks = down.shape[:2]
    if isinstance(layer, nn.Linear):
        narrow, wide = down.transpose(1, 2).contiguous(), up.transpose(1, 2).contiguous()

        def linear(x: Tensor, given: Tensor) -> Tensor:
            low = torch.bmm(x.reshape(count, -1, x.shape[-1]), narrow)
            return torch.baddbmm(given.view(count, -1, given.shape[-1]), low, wide).view_as(given)

        return linear
    kernels, stride, padding = down.flatten(0, 1), layer.stride, layer.padding

    def conv(x: Tensor, given: Tensor) -> Tensor:
        # The stretches side by side as groups of channels: [rows, S in, h, w].
        aside = x.unflatten(0, (count, -1)).transpose(0, 1).flatten(1, 2)
        low = F.conv2d(aside, kernels, None, stride, padding, layer.dilation, groups=count)
        low = low.view(len(aside), count, ranks, -1).transpose(0, 1)  # -> [S, rows, rank, h w]
        high = torch.matmul(up[:, None], low)
        return given + high.reshape(given.shape)

    return conv


def _stacked(layer: Layer, factors: Sequence[Factors | None]) -> tuple[Tensor, Tensor]:
    weight = layer.weight
    rank = max(len(one.down) for one in factors if one is not None)
    down = weight.new_zeros(len(factors), rank, *weight.shape[1:])
    up = weight.new_zeros(len(factors), len(weight), rank)
    for at, one in enumerate(factors):
        if one is not None:
            down[at, : len(one.down)] = one.down
            up[at, :, : len(one.down)] = one.up
    return down, up
