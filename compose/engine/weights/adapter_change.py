"""An adapter's changes to the layers of a base, as tensors shaped as their weights."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from studio.adapters.delta import Layer, LowRank

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter

# By layer and k: the sums that Change.size tells.
Sizes = dict[tuple[str, int], Tensor]

MOST_BYTES = 512 * 2**20  # of the cache of changes


@dataclass(frozen=True, eq=False)
class Change:
    """An adapter of the shot on this base: what a method sees of it (see MethodAdapter)."""

    adapter: "Adapter"
    strength: float
    layers: Mapping[str, nn.Module]
    version: int
    sizes: Sizes = field(default_factory=dict)

    def changed(self) -> list[str]:
        """The layers that it changes and this base has."""
        return [layer for layer in self.adapter.deltas if layer in self.layers]

    def change(self, layer: str) -> Tensor:
        """float32, shaped as the layer's weight and beside it: the change at strength 1."""
        return dense_change(self.adapter, layer, self.layers)

    def size(self, layer: str, k: int) -> Tensor:
        """At strength 1 the sum of its k largest |dW| in a layer, and of all; see `entry_sums`."""
        if (layer, k) not in self.sizes:
            self.sizes[layer, k] = entry_sums(self.change(layer), k)
        return self.sizes[layer, k]


class DenseChanges:
    """A cache of changes at strength 1, so that another strength or method costs a sum only.

    Low-rank changes are not in it: their product takes no longer. When it is full, changes are
    computed each time.
    """

    def __init__(self, *, most: int = MOST_BYTES) -> None:
        self.most, self.nbytes = most, 0
        self._changes: dict[tuple[Adapter, int, str], Tensor] = {}

    def change(
        self,
        adapter: "Adapter",
        version: int,
        layer: str,
        layers: Mapping[str, nn.Module],
        *,
        rank: int | None = None,
    ) -> Tensor:
        """float32, shaped as the layer's weight and beside it. rank: see `dense_change`."""
        if rank is not None:  # another at nearly every step
            return dense_change(adapter, layer, layers, rank=rank)
        key = adapter, version, layer
        if key not in self._changes:
            found = dense_change(adapter, layer, layers)
            if self.nbytes + found.nbytes > self.most:
                return found
            self._changes[key] = found
            self.nbytes += found.nbytes
        return self._changes[key]

    def release(self, used: "set[tuple[Adapter, int]]") -> None:
        """Let go of the changes of all other adapters, and versions of their tensors."""
        self._changes = {key: one for key, one in self._changes.items() if key[:2] in used}
        self.nbytes = sum(one.nbytes for one in self._changes.values())


def entry_sums(change: Tensor, k: int) -> Tensor:
    """The sum of the k largest |entries|, all where there are fewer, and the sum of all.

    float64, [2], where the change is: nobody waits for a GPU here. Of entries cut into pieces the
    k with the largest maxima hold the k largest entries, so that few are sorted.
    """
    piece = _piece(change.numel(), k)
    pieces = change.abs().reshape(-1, piece)
    best = whole = pieces.flatten()
    if piece > 1:
        best = pieces[pieces.amax(1).topk(k, sorted=False).indices].flatten()
        whole = pieces.sum(1)
    top = best.topk(min(k, len(best)), sorted=False).values
    return torch.stack([top.sum(dtype=torch.float64), whole.sum(dtype=torch.float64)])


def _piece(entries: int, k: int) -> int:
    """The side of pieces, a power of two, for which least is sorted: entries / piece + k piece."""
    piece = 1
    while entries % (2 * piece) == 0 and 4 * piece * piece * k <= entries:
        piece *= 2
    return piece


def dense_change(
    adapter: "Adapter", layer: str, layers: Mapping[str, nn.Module], *, rank: int | None = None
) -> Tensor:
    """An adapter's change to a layer at strength 1; see Change.change.

    rank: how many of its ranks act, the first; all if None.
    """
    weight = cast(Layer, layers[layer]).weight.detach()
    delta = adapter.deltas[layer]
    if rank is not None and isinstance(delta, LowRank):
        delta = delta.leading(rank)
    if any(tensor.device != weight.device for tensor in delta.parameters()):
        delta = copy.deepcopy(delta).to(weight.device)  # of one layer at a time
    with torch.no_grad():
        return delta.dense(weight).detach()  # it may be a view of what is trained


def adapter_version(adapter: "Adapter") -> int:
    """Counts the in-place changes made to the tensors, so that trained-on ones are seen as new."""
    return sum(tensor._version for tensor in _tensors(adapter) if not tensor.is_inference())


def _tensors(adapter: "Adapter") -> Iterator[Tensor]:
    for delta in adapter.deltas.values():
        yield from _inside(delta)
    for own in adapter.embeddings.values():
        yield from own.values()


def _inside(delta: nn.Module) -> Iterator[Tensor]:
    """As `parameters` and `buffers`, which take ten times as long over hundreds of deltas."""
    inside = vars(delta)
    yield from (one for one in inside["_parameters"].values() if one is not None)
    yield from (one for one in inside["_buffers"].values() if one is not None)
    for child in inside["_modules"].values():
        yield from _inside(child)
