"""SaRA's form: a change to a few chosen entries of the weight."""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from studio.adapters.delta.layer import Layer, adaptable, apply_weight, per_output

AT_ONCE = 2**20  # gaps that are read at a time
FAR = 255  # a gap byte that means: skip 255 entries and go on with the next byte


class Sparse(nn.Module):
    """dW is `value` at `index` of the flattened weight and zero elsewhere (SaRA).

    index: int32 or int64, [n], without repetitions.  value: [n].  shape: that of the weight.
    settled_index, settled_value: entries that are no longer trained; see `settle`.
    """

    index: Tensor
    settled_index: Tensor
    settled_value: Tensor
    bias: Tensor | None = None  # it changes no bias
    magnitude: Tensor | None = None  # and has no DoRA

    def __init__(self, index: Tensor, value: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("index", index)
        self.value = nn.Parameter(value)
        self.register_buffer("settled_index", index[:0].clone())
        self.register_buffer("settled_value", value.detach()[:0].clone())
        self.shape = tuple(shape)

    @classmethod
    def start(cls, layer: nn.Module, index: Tensor) -> Self:
        """A new delta of zeros, at these entries of the layer's flattened weight."""
        weight = adaptable(layer).weight
        return cls(index, torch.zeros(len(index), device=weight.device), tuple(weight.shape))

    def dense(self, weight: Tensor) -> Tensor:
        """dW at strength 1: float32, shaped as the weight it is given; differentiable."""
        flat = torch.zeros(weight.numel(), device=self.value.device)
        flat = flat.index_add(0, self.settled_index, self.settled_value.float())
        return flat.index_add(0, self.index, self.value.float()).view(weight.shape)

    def forward(self, layer: Layer, x: Tensor) -> Tensor:
        """The layer's output with the change. Autograd keeps no copy of the changed weight."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        with torch.autocast(kind, enabled=False):
            x = x.to(dtype)
            product = _SparseProduct.apply(x, self.value, self, layer)
            bias = layer.bias
            return product if bias is None else product + per_output(layer, bias).to(dtype)

    def changed(self, layer: Layer, dtype: torch.dtype) -> Tensor:
        """The changed weight in this dtype. The sum is computed in the wider of the two dtypes."""
        weight, value = layer.weight.detach(), self.value.detach()
        wide = weight.flatten().to(torch.promote_types(weight.dtype, value.dtype))
        wide = wide.index_add(0, self.index, value.to(wide.dtype))
        if len(self.settled_index):
            wide.index_add_(0, self.settled_index, self.settled_value.to(wide.dtype))
        return wide.view(weight.shape).to(dtype)

    @torch.no_grad()
    def settle(self, training: Tensor) -> None:
        """From now on train only the marked entries; the others keep their values.

        training: bool, [n].

        The parameter remains the same object but shrinks, so its optimizer state must be dropped.
        """
        settled = ~training
        self.settled_index = torch.cat([self.settled_index, self.index[settled]])
        self.settled_value = torch.cat([self.settled_value, self.value[settled]])
        self.index = self.index[training]
        self.value.grad = None
        self.value.data = self.value[training]

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by their names in a file: values in float16, indices as gaps."""
        index = torch.cat([self.settled_index, self.index]).long()
        value = torch.cat([self.settled_value, self.value.detach()])
        order = index.argsort()
        return {
            "sparse_gaps": _gaps(index[order]),
            "sparse_value": value[order].half(),
            "sparse_shape": torch.tensor(self.shape, dtype=torch.int64),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`, with all entries in `index`.

        Raises ValueError where there are not as many values as indices.
        """
        index, value = _index(tensors["sparse_gaps"]), tensors["sparse_value"]
        if len(index) != len(value):
            raise ValueError(f"has {len(value)} values for {len(index)} entries")
        return cls(index, value, tuple(int(side) for side in tensors["sparse_shape"]))

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: Mapping[str, Tensor], prefix: str, *rest: object
    ) -> None:
        """Load tensors of any length: since the start, `settle` may have moved entries."""
        for name, own in (*self.named_parameters(), *self.named_buffers()):
            if f"{prefix}{name}" in state_dict:
                own.data = own.data.new_empty(state_dict[f"{prefix}{name}"].shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)  # pyright: ignore


class _SparseProduct(torch.autograd.Function):
    """The layer's output with the changed weight, which the backward pass computes again.

    Autograd would keep every changed weight until the backward pass, a second copy of the model.
    Only the chosen entries of the weight's gradient are kept ("unstructural backpropagation",
    section 3.4 of the paper).
    """

    @staticmethod
    def forward(ctx, x: Tensor, value: Tensor, delta: Sparse, layer: Layer) -> Tensor:
        ctx.save_for_backward(x, value)  # with value, autograd notices if it is overwritten
        ctx.delta, ctx.layer = delta, layer
        return apply_weight(layer, x, delta.changed(layer, x.dtype))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, gradient: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, _ = ctx.saved_tensors
        delta: Sparse = ctx.delta
        layer: Layer = ctx.layer
        for_x, for_value, *_ = ctx.needs_input_grad
        total = delta.changed(layer, x.dtype)
        to_x = to_total = None
        if isinstance(layer, nn.Conv2d):
            geometry = (layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups)
            to_x, to_total, _ = torch.ops.aten.convolution_backward(
                gradient, x, total, None, *geometry, (for_x, for_value, False)
            )
        else:
            if for_x:
                to_x = gradient @ total
            if for_value:
                to_total = gradient.flatten(0, -2).T @ x.flatten(0, -2)
        to_value = None
        if to_total is not None:
            to_value = to_total.flatten()[delta.index.long()].to(delta.value.dtype)
        return to_x, to_value, None, None


def _gaps(index: Tensor) -> Tensor:
    """Ascending indices, int64 [n], as the gaps between them, uint8; a byte FAR continues a gap.

    At SaRA's densities nearly every gap fits one byte, a quarter of an int32.
    """
    between = index.diff(prepend=index.new_full((1,), -1)) - 1
    far = between // FAR
    gaps = torch.full((len(index) + int(far.sum()),), FAR, dtype=torch.uint8, device=index.device)
    gaps[(far + 1).cumsum(0) - 1] = (between % FAR).to(torch.uint8)
    return gaps


def _index(gaps: Tensor) -> Tensor:
    """The inverse of `_gaps`: int32, or int64 where the indices need it."""
    if gaps.dtype != torch.uint8:
        raise ValueError("has gaps that are no bytes")
    pieces = gaps.split(AT_ONCE)  # the steps below need many times the memory of the bytes
    count = sum(int((piece != FAR).sum()) for piece in pieces)
    total = sum(int(piece.sum(dtype=torch.int64)) for piece in pieces) + count
    dtype = torch.int32 if total <= torch.iinfo(torch.int32).max else torch.int64
    index, done, last = gaps.new_empty(count, dtype=dtype), 0, -1
    for piece in pieces:
        ends = piece != FAR
        positions = (piece + ends.to(dtype)).cumsum(0, dtype=dtype) + last
        entries = positions[ends]
        index[done : done + len(entries)] = entries
        done += len(entries)
        last = int(positions[-1]) if len(positions) else last
    return index
