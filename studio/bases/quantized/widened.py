"""A weight that is stored in fewer bits and widened to what is computed in, each time it is read.

diffusers' layerwise casting does not serve: autograd keeps the weights that it widened until the
backward pass, a whole UNet of them unless activations are recomputed, and it claims the layers'
`forward`, where deltas are attached. Here autograd keeps the stored weight and widens it again.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


class Widened(nn.Module):
    """The parametrization of a layer's `weight`, which PyTorch calls whenever the weight is read.

    dtype: what the weight is widened to; autocast's goes first.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, stored: Tensor) -> Tensor:
        """The weight. Its `origin` tells autograd's hooks what it was made of."""
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
    """Within the block autograd keeps stored weights, and not those that were widened of them."""
    return saved_tensors_hooks(_pack, _unpack)


def is_widened(tensor: Tensor) -> bool:
    """Whether it is a weight that was widened, or a view of one."""
    return _origin(tensor) is not None


def _origin(tensor: Tensor) -> tuple[Widened, Tensor] | None:
    whole = tensor._base if tensor._is_view() else tensor
    return getattr(whole, "origin", None)


def _pack(tensor: Tensor) -> object:
    """What autograd keeps of a tensor: of a widened weight how to make it again."""
    origin = _origin(tensor)
    if origin is None:
        return tensor
    return (*origin, tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset())


def _unpack(packed: Any) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    part, stored, dtype, shape, stride, offset = packed
    return part.widen(stored, dtype).as_strided(shape, stride, offset)
