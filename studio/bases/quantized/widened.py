"""A weight that is stored in fewer bits, and dequantized ("widened") each time it is read.

diffusers' layerwise casting does not suit. With it, autograd keeps the widened weights until the
backward pass, a whole UNet of them unless activations are recomputed; and it takes the layers'
`forward`, where deltas are attached. Here autograd keeps the stored weight and widens it again.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


class Widened(nn.Module):
    """The parametrization of a layer's `weight`, which PyTorch calls whenever the weight is read.

    dtype: what the weight is widened to; under autocast it is autocast's dtype instead.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, stored: Tensor) -> Tensor:
        """The widened weight. Its attribute `origin` lets autograd's hooks make it again."""
        kind = stored.device.type
        autocast = kind != "meta" and torch.is_autocast_enabled(kind)
        weight = self.widen(stored, torch.get_autocast_dtype(kind) if autocast else self.dtype)
        if not torch.compiler.is_compiling():  # the compiler widens again where that is cheaper
            cast(Any, weight).origin = self, stored
        return weight

    def widen(self, stored: Tensor, dtype: torch.dtype) -> Tensor:
        """The stored weight in another dtype, in its own shape [out, ...], without gradients."""
        raise NotImplementedError


def widening_again() -> saved_tensors_hooks:
    """Within the block, autograd keeps the stored weights, not the widened ones."""
    return saved_tensors_hooks(_pack, _unpack)


def is_widened(tensor: Tensor) -> bool:
    """Whether the tensor is a widened weight, or a view of one."""
    return _origin(tensor) is not None


def _origin(tensor: Tensor) -> tuple[Widened, Tensor] | None:
    whole = tensor._base if tensor._is_view() else tensor
    return getattr(whole, "origin", None)


def _pack(tensor: Tensor) -> object:
    """What autograd keeps: the tensor itself, or for a widened weight how to make it again."""
    origin = _origin(tensor)
    if origin is None:
        return tensor
    return (*origin, tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset())


def _unpack(packed: Any) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    part, stored, dtype, shape, stride, offset = packed
    return part.widen(stored, dtype).as_strided(shape, stride, offset)
