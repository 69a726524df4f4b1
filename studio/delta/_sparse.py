"""SaRA's form: a few chosen entries of the weight."""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from studio.delta._layer import Layer, apply, per_output

__all__ = ["Sparse"]


class Sparse(nn.Module):
    """dW is `value` at `index` of the flattened weight and zero elsewhere (SaRA).

    index: int32 or int64, [n], each entry once.  value: [n].  shape: of the weight.
    """

    index: Tensor

    def __init__(self, index: Tensor, value: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("index", index)
        self.value = nn.Parameter(value)
        self.shape = tuple(shape)

    @property
    def bias(self) -> Tensor | None:
        """The change to the layer's bias: none."""
        return None

    def dense(self, weight: Tensor) -> Tensor:
        """dW at strength 1: float32, shaped as the weight it is given; differentiable."""
        flat = torch.zeros(weight.numel(), device=self.value.device)
        return flat.index_add(0, self.index, self.value.float()).view(weight.shape)

    def forward(self, layer: Layer, x: Tensor) -> Tensor:
        """The layer's output with the change; the backward pass keeps no copy of the weight."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        with torch.autocast(kind, enabled=False):
            x = x.to(dtype)
            product = _SparseProduct.apply(x, self.value, self.index, layer)
            bias = layer.bias
            return product if bias is None else product + per_output(layer, bias).to(dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by their names on disk."""
        shape = torch.tensor(self.shape, dtype=torch.int64)
        return {
            "sparse_index": self.index,
            "sparse_value": self.value.detach(),
            "sparse_shape": shape,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        shape = tuple(int(side) for side in tensors["sparse_shape"])
        return cls(tensors["sparse_index"], tensors["sparse_value"], shape)


class _SparseProduct(torch.autograd.Function):
    """x through the weight plus its sparse change; the sum lives only while it is used.

    Autograd would keep every summed weight until the backward pass, a second copy of the model;
    here it is summed again there, and only the chosen entries of its gradient are kept.
    """

    @staticmethod
    def forward(ctx, x: Tensor, value: Tensor, index: Tensor, layer: Layer) -> Tensor:
        ctx.save_for_backward(x, value, index)
        ctx.layer = layer
        return apply(layer, x, _SparseProduct.total(x, value, index, layer))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, value, index = ctx.saved_tensors
        layer: Layer = ctx.layer
        for_x, for_value, *_ = ctx.needs_input_grad
        total = _SparseProduct.total(x, value, index, layer)
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
            to_value = to_total.flatten()[index.long()].to(value.dtype)
        return to_x, to_value, None, None

    @staticmethod
    def total(x: Tensor, value: Tensor, index: Tensor, layer: Layer) -> Tensor:
        """The changed weight in x's precision, summed in the wider of the two."""
        weight = layer.weight.detach()
        wide = weight.flatten().to(torch.promote_types(weight.dtype, value.dtype))
        return wide.index_add(0, index, value.to(wide.dtype)).view(weight.shape).to(x.dtype)
