"""Rows of one batch with different changed weights, so that several mixes are one call of the UNet.

Layers that no row changes, most of a UNet, run over the whole batch at once. A layer with different
low-rank changes runs in one of two ways, whichever is less work for its input. Either the base's
own weight runs over the whole batch, and the low-rank products of all rows are added; or each row
has a folded weight of its own, computed once for all steps. Changes of other forms are always whole
weights, one for each block of rows.

Changes are prepared once, and applied and removed at every step by swapping references only.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from studio.adapters.delta import Layer, Norm

# Folding is worth it from this ratio on: multiplications of the low-rank products / entries of the
# folded weight. For linear layers and for convolutions, measured on a CPU. A little below, folding
# is faster at each step too, but not enough for a few steps to make up for the folding itself.
FOLDING_LINEAR, FOLDING_CONV = 12, 25
# Up to this many rows in a block, convolutions with folded weights run as one grouped convolution,
# with a group of channels for each row. With more rows the blocks run one by one.
FEW = 4
Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Factors:
    """A low-rank change to a weight, up @ down, with all strengths multiplied in.

    down: [rank, in(, kh, kw)].  up: [out, rank].
    """

    down: Tensor
    up: Tensor


@dataclass(frozen=True, eq=False)
class Unkept:
    """A weight that is not kept in memory, but computed whenever its layer runs."""

    compute: Callable[[], Tensor]


# By the layer's name: the whole changed weight, or low-rank factors to add to the base's weight. By
# the layer's name and ".bias": the changed bias.
LayerChange = Tensor | Unkept | Factors
LayerChanges = Mapping[str, LayerChange]


@dataclass(frozen=True, eq=False)
class RowBlock:
    """Consecutive rows of a batch with the same changes. rows: the number of rows."""

    rows: int
    changes: LayerChanges


@dataclass(frozen=True, eq=False)
class PreparedLayers:
    """Changes ready to be applied. swaps: (a layer's dictionary, a key in it, the new value)."""

    swaps: Sequence[tuple[dict[str, Any], str, nn.Parameter | Forward]]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Change the base within the block; afterwards put back the very same tensors."""
        before = [table.get(name) for table, name, _ in self.swaps]
        try:
            for table, name, changed in self.swaps:
                table[name] = changed
            yield
        finally:
            for (table, name, _), own in zip(self.swaps, before, strict=True):
                if own is None:
                    table.pop(name, None)
                else:
                    table[name] = own


@dataclass(eq=False)
class MemoryBudget:
    """Bytes that are left for changed weights."""

    left: int

    def take(self, wanted: int) -> bool:
        """Take this many bytes if there are enough; return whether there were."""
        enough = wanted <= self.left
        self.left -= wanted if enough else 0
        return enough


def prepare_layers(
    layers: Mapping[str, nn.Module], blocks: Sequence[RowBlock], *, room: int = 0
) -> PreparedLayers:
    """Prepare the changes of a batch's rows. blocks: in the order of the rows.

    No layer may have a `forward` of its own, as studio.adapters.delta.attach gives it. room: bytes
    for folded weights; at 0 all low-rank products are added beside the base's weights. With room,
    all later inputs must have the size of the first one.
    """
    budget = MemoryBudget(room)
    swaps: list[tuple[dict[str, Any], str, nn.Parameter | Forward]] = []
    for name in _names(layers, blocks):
        layer = cast(Layer, layers[name])
        weights = [block.changes.get(name) for block in blocks]
        biases = [cast(Tensor | None, one.changes.get(f"{name}.bias")) for one in blocks]
        if all(one is weights[0] for one in weights) and all(one is biases[0] for one in biases):
            quantized = isinstance(weights[0], Tensor) and is_parametrized(layer, "weight")
            for kind, tensor in (("weight", weights[0]), ("bias", biases[0])):
                if isinstance(tensor, Tensor) and not (quantized and kind == "weight"):
                    # Putting a parameter into the dictionary is ten times as fast as setting .data.
                    parameter = nn.Parameter(tensor, requires_grad=False)
                    swaps.append((layer._parameters, kind, parameter))
            if not (quantized or isinstance(weights[0], Factors | Unkept)):
                continue
        forward = _forward(layer, blocks, weights, biases, budget)
        swaps.append((vars(layer), "forward", forward))
    return PreparedLayers(swaps)


def _names(layers: Mapping[str, nn.Module], blocks: Sequence[RowBlock]) -> list[str]:
    """The layers that any row changes."""
    names = (name for block in blocks for name in block.changes)
    return list(dict.fromkeys(n if n in layers else n.removesuffix(".bias") for n in names))


def _forward(
    layer: Layer,
    blocks: Sequence[RowBlock],
    weights: Sequence[LayerChange | None],
    biases: Sequence[Tensor | None],
    budget: MemoryBudget,
) -> Forward:
    """The `forward` of a layer whose rows have these weights and biases, block by block."""
    rows = [block.rows for block in blocks]
    own = Unkept(lambda: layer.weight) if is_parametrized(layer, "weight") else layer.weight
    whole = [one if isinstance(one, Tensor | Unkept) else own for one in weights]
    own_bias = [layer.bias if bias is None else bias for bias in biases]
    plain = _per_block(layer, rows, whole, own_bias)
    factors = [weight if isinstance(weight, Factors) else None for weight in weights]
    if not any(factors):
        return plain
    thin = _stacked(layer, factors)
    low_rank = _add_low_rank(layer, rows, *thin)
    if any(isinstance(weight, Tensor | Unkept) for weight in weights):
        return lambda x: low_rank(x, plain(x))
    chosen: Forward | None = None

    def forward(x: Tensor) -> Tensor:
        nonlocal chosen
        if chosen is None:
            wanted = _copies(layer, rows) * layer.weight.nbytes
            if _worth_folding(layer, thin, x) and budget.take(wanted):
                chosen = _folded(layer, rows, thin, own_bias)
            else:
                chosen = lambda x: low_rank(x, plain(x))  # noqa: E731
        return chosen(x)

    return forward


def _per_block(
    layer: Layer,
    rows: Sequence[int],
    weights: Sequence[Tensor | Unkept],
    biases: Sequence[Tensor | None],
) -> Forward:
    """Run each block with its own weight; neighbouring blocks with the same weight run together."""
    blocks = zip(rows, weights, biases, strict=True)
    runs = [
        (sum(block[0] for block in inside), *inside[0][1:])
        for inside in (
            list(run) for _, run in groupby(blocks, key=lambda one: (id(one[1]), id(one[2])))
        )
    ]
    counts = [count for count, _, _ in runs]
    if len(runs) == 1:
        _, weight, bias = runs[0]
        return lambda x: _apply(layer, x, weight, bias)
    return lambda x: torch.cat(
        [
            _apply(layer, part, weight, bias)
            for part, (_, weight, bias) in zip(x.split(counts), runs, strict=True)
        ]
    )


def _apply(layer: Layer | Norm, x: Tensor, weight: Tensor | Unkept, bias: Tensor | None) -> Tensor:
    if isinstance(weight, Unkept):
        weight = weight.compute()
    if isinstance(layer, nn.LayerNorm):
        return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
    if isinstance(layer, nn.GroupNorm):
        return F.group_norm(x, layer.num_groups, weight, bias, layer.eps)
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation)


def _worth_folding(layer: Layer, thin: tuple[Tensor, Tensor], x: Tensor) -> bool:
    """Whether folded weights are faster than low-rank products for inputs of x's size."""
    down, up = thin
    if isinstance(layer, nn.Linear):
        places, worth = x[..., 0].numel(), FOLDING_LINEAR
    else:
        places, worth = x[:, 0].numel() / math.prod(layer.stride), FOLDING_CONV
    beside = places / len(down) * (down[0].numel() + up[0].numel())
    return beside > worth * layer.weight.numel()


def _copies(layer: Layer, rows: Sequence[int]) -> int:
    """The number of folded weights of a layer that `_folded` keeps: one a block, or one a row."""
    by_row = isinstance(layer, nn.Conv2d) and max(rows) <= FEW
    return sum(rows) if by_row else len(rows)


def _folded(
    layer: Layer,
    rows: Sequence[int],
    thin: tuple[Tensor, Tensor],
    biases: Sequence[Tensor | None],
) -> Forward:
    """Run every block with a folded weight of its own."""
    down, up = thin
    own = layer.weight.detach().flatten(1).expand(len(rows), -1, -1)
    weights = torch.baddbmm(own, up, down.flatten(2))  # -> [S, out, in (kh kw)]
    bias = biases[0]
    if all(one is bias for one in biases):
        if isinstance(layer, nn.Linear) and len(set(rows)) == 1:
            return _linears(weights, bias)
        if isinstance(layer, nn.Conv2d) and max(rows) <= FEW:
            return _convs(layer, _of_rows(weights, rows), bias)
    return _per_block(layer, rows, [one.view(layer.weight.shape) for one in weights], biases)


def _linears(weights: Tensor, bias: Tensor | None) -> Forward:
    """All blocks as one batched product. weights: [S, out, in], for S blocks of equal rows."""
    wide = weights.transpose(1, 2)

    def linear(x: Tensor) -> Tensor:
        by_block = x.reshape(len(wide), -1, x.shape[-1])
        out = torch.bmm(by_block, wide) if bias is None else torch.baddbmm(bias, by_block, wide)
        return out.view(*x.shape[:-1], -1)

    return linear


def _convs(layer: nn.Conv2d, weights: Tensor, bias: Tensor | None) -> Forward:
    """All rows as one grouped convolution, one group a row. weights: [rows, out, in (kh kw)]."""
    count, outputs = weights.shape[:2]
    if _is_point(layer):
        shift = weights.new_zeros(1) if bias is None else bias.detach()[:, None]
        return lambda x: torch.baddbmm(shift, weights, x.flatten(2)).unflatten(2, x.shape[2:])
    kernels = weights.view(count * outputs, *layer.weight.shape[1:])
    biases = None if bias is None else bias.detach().repeat(count)
    stride, padding = layer.stride, layer.padding

    def conv(x: Tensor) -> Tensor:
        grouped = x.reshape(1, -1, *x.shape[2:])
        out = F.conv2d(grouped, kernels, biases, stride, padding, layer.dilation, groups=count)
        return out.view(count, outputs, *out.shape[2:])

    return conv


def _add_low_rank(
    layer: Layer, rows: Sequence[int], down: Tensor, up: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """A function that adds each block's low-rank product to a layer's output, in place.

    It takes the layer's input and output, and returns the sum. down: [S, rank, in(, kh, kw)],
    up: [S, out, rank], for S blocks.
    """
    if len(set(rows)) > 1:  # one batched product needs blocks of equal size: one block a row
        down, up, rows = _of_rows(down, rows), _of_rows(up, rows), [1] * sum(rows)
    count, ranks = down.shape[:2]
    if isinstance(layer, nn.Linear):
        narrow, wide = down.transpose(1, 2), up.transpose(1, 2)

        def linear(x: Tensor, out: Tensor) -> Tensor:
            low = torch.bmm(x.reshape(count, -1, x.shape[-1]), narrow)
            out.view(count, -1, out.shape[-1]).baddbmm_(low, wide)
            return out

        return linear
    wide = _of_rows(up, rows)
    if _is_point(layer):
        points = _of_rows(down.flatten(2), rows)

        def point(x: Tensor, out: Tensor) -> Tensor:
            out.view(*out.shape[:2], -1).baddbmm_(wide, torch.bmm(points, x.flatten(2)))
            return out

        return point
    kernels, stride, padding = down.flatten(0, 1), layer.stride, layer.padding

    def conv(x: Tensor, out: Tensor) -> Tensor:
        # One grouped convolution, one group a block: [rows of a block, S in, h, w].
        grouped = x.unflatten(0, (count, -1)).transpose(0, 1).flatten(1, 2)
        low = F.conv2d(grouped, kernels, None, stride, padding, layer.dilation, groups=count)
        low = low.view(len(grouped), count, ranks, -1).transpose(0, 1).flatten(0, 1)
        out.view(*out.shape[:2], -1).baddbmm_(wide, low)  # [rows, out, h w]
        return out

    return conv


def _is_point(layer: nn.Conv2d) -> bool:
    """Whether a convolution is 1 x 1 with stride 1: a matrix product at each pixel."""
    return layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0)


def _of_rows(blocks: Tensor, rows: Sequence[int]) -> Tensor:
    """[S, ...] -> [rows, ...]: the entry of each row's block."""
    return blocks.repeat_interleave(torch.tensor(rows, device=blocks.device), 0)


def _stacked(layer: Layer, factors: Sequence[Factors | None]) -> tuple[Tensor, Tensor]:
    """The factors of all blocks as down [S, rank, in(, kh, kw)] and up [S, out, rank].

    Lower ranks, and blocks without a change, are filled up with zeros.
    """
    weight, ranks = layer.weight, {0 if one is None else len(one.down) for one in factors}
    if len(ranks) == 1:
        changes = [one for one in factors if one is not None]
        return torch.stack([one.down for one in changes]), torch.stack([one.up for one in changes])
    rank = max(ranks)
    down = weight.new_zeros(len(factors), rank, *weight.shape[1:])
    up = weight.new_zeros(len(factors), len(weight), rank)
    for at, one in enumerate(factors):
        if one is not None:
            down[at, : len(one.down)] = one.down
            up[at, :, : len(one.down)] = one.up
    return down, up
