"""An adapter's changes to the layers of a base, as tensors in the shapes of the weights."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from studio.adapters.delta import Layer, LowRank

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter

# The results of Change.size, by layer and k.
Sizes = dict[tuple[str, int], Tensor]

MOST_BYTES = 512 * 2**20  # limit of the cache of changes


@dataclass(frozen=True, eq=False)
class Change:
    """An adapter of the shot on this base, as a method sees it (see MethodAdapter)."""

    adapter: "Adapter"
    strength: float
    layers: Mapping[str, nn.Module]
    version: int
    sizes: Sizes = field(default_factory=dict)

    def changed(self) -> list[str]:
        """The layers of this base that the adapter changes."""
        return [layer for layer in self.adapter.deltas if layer in self.layers]

    def change(self, layer: str) -> Tensor:
        """The change at strength 1: float32, in the weight's shape and on the weight's device."""
        return dense_change(self.adapter, layer, self.layers)

    def size(self, layer: str, k: int) -> Tensor:
        """The sums of the k largest |dW| and of all |dW| at strength 1; see `entry_sums`."""
        if (layer, k) not in self.sizes:
            self.sizes[layer, k] = entry_sums(self.change(layer), k)
        return self.sizes[layer, k]


class DenseChanges:
    """A cache of changes at strength 1, so that another strength or method costs only a sum.

    It holds no low-rank changes, whose product is as fast. When it is full, further changes are
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
        """The change at strength 1; see Change.change. rank: see `dense_change`."""
        if rank is not None:  # ranks change at nearly every step, so keeping the change is no use
            return dense_change(adapter, layer, layers, rank=rank)
        key = adapter, version, layer
        if key not in self._changes:
            computed = dense_change(adapter, layer, layers)
            if self.nbytes + computed.nbytes > self.most:
                return computed
            self._changes[key] = computed
            self.nbytes += computed.nbytes
        return self._changes[key]

    def release(self, used: "set[tuple[Adapter, int]]") -> None:
        """Drop all changes but those of these adapters in these versions of their tensors."""
        self._changes = {key: one for key, one in self._changes.items() if key[:2] in used}
        self.nbytes = sum(one.nbytes for one in self._changes.values())


def entry_sums(change: Tensor, k: int) -> Tensor:
    """[2], float64: the sum of the k largest |entries| (or of all, if fewer), and the sum of all.

    On the change's device, so that nothing waits for a GPU. The entries are cut into pieces: the k
    pieces with the largest maxima hold the k largest entries, so only those pieces are sorted.
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
    """The length of pieces, a power of two, for which entries / piece + k piece is the least."""
    piece = 1
    while entries % (2 * piece) == 0 and 4 * piece * piece * k <= entries:
        piece *= 2
    return piece


def dense_change(
    adapter: "Adapter", layer: str, layers: Mapping[str, nn.Module], *, rank: int | None = None
) -> Tensor:
    """An adapter's change to a layer at strength 1; see Change.change.

    rank: use only the first `rank` ranks of a low-rank change; None for all.
    """
    weight = cast(Layer, layers[layer]).weight.detach()
    delta = adapter.deltas[layer]
    if rank is not None and isinstance(delta, LowRank):
        delta = delta.leading(rank)
    if any(tensor.device != weight.device for tensor in delta.parameters()):
        delta = copy.deepcopy(delta).to(weight.device)  # one layer at a time, to save memory
    with torch.no_grad():
        return delta.dense(weight).detach()  # it may be a view of a trained parameter


def adapter_version(adapter: "Adapter") -> int:
    """The number of in-place changes to an adapter's tensors: it grows when training goes on."""
    return sum(tensor._version for tensor in _tensors(adapter) if not tensor.is_inference())


def _tensors(adapter: "Adapter") -> Iterator[Tensor]:
    for delta in adapter.deltas.values():
        yield from _inside(delta)
    for own in adapter.embeddings.values():
        yield from own.values()


def _inside(delta: nn.Module) -> Iterator[Tensor]:
    """All parameters and buffers of a delta; ten times as fast as `parameters()`."""
    inside = vars(delta)
    yield from (one for one in inside["_parameters"].values() if one is not None)
    yield from (one for one in inside["_buffers"].values() if one is not None)
    for child in inside["_modules"].values():
        yield from _inside(child)
