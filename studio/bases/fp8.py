"""A UNet's weights in 8 bits (fp8) while something trains beside them: half of 16 bits' memory.

A weight is stored as float8_e4m3fn with a power of two for each output row, so that its largest
entry comes near to 448, the format's largest number. Every use widens it to what is computed in,
exactly. Without the powers, weights of 0.005, common in real models, would be off by a tenth.

diffusers' layerwise casting does not serve: autograd keeps the weights that it widened until the
backward pass, a whole UNet of them unless activations are recomputed, and it claims the layers'
`forward`, where deltas are attached. Here autograd keeps the stored weight and widens it again.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils import parametrize

FORMAT = torch.float8_e4m3fn
LARGEST = torch.finfo(FORMAT).max
# All but the first and last layers and those of the timestep, which are small and matter to all.
STORED = re.compile(r"unet\.(down_blocks|mid_block|up_blocks)\..*")


class Widened(nn.Module):
    """What a layer's `weight` is made of: stored [out, ...] in FORMAT, in steps of powers of two.

    exponents: int8 [out, 1, ...].  dtype: what the weight is widened to; autocast's goes first.
    """

    exponents: Tensor

    def __init__(self, exponents: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("exponents", exponents)
        self.dtype = dtype

    def forward(self, stored: Tensor) -> Tensor:
        """The weight. Its `origin` tells autograd's hooks what it was made of."""
        kind = stored.device.type
        cast_to = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.dtype
        weight = self.widen(stored, cast_to)
        if not torch.compiler.is_compiling():  # the compiler widens again where that is cheaper
            cast(Any, weight).origin = self, stored
        return weight

    @torch.no_grad()
    def widen(self, stored: Tensor, dtype: torch.dtype) -> Tensor:
        """The stored weight in another dtype: [out, ...]."""
        return stored.to(dtype) * torch.exp2(self.exponents.to(dtype))


def round_to_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest weight in FORMAT and its exponents: [out, ...] and int8 [out, 1, ...]."""
    sides = tuple(range(1, weight.ndim))
    largest = weight.detach().float().abs().amax(dim=sides, keepdim=True)
    fitting = torch.floor(torch.log2(LARGEST / largest)).clamp(-24, 24)  # fp16 has 2^-24
    stored = (weight.detach().float() * torch.exp2(fitting)).to(FORMAT)
    return stored, (-fitting).to(torch.int8)


@contextmanager
def stored_in_fp8(layers: Mapping[str, nn.Module], dtype: torch.dtype) -> Iterator[None]:
    """Within the block the layers that STORED names hold their weights in fp8, which are frozen.

    Their own wait on the CPU, and come back where the layer is then. dtype: what is computed in.
    """
    kept: list[tuple[nn.Module, Tensor]] = []
    try:
        for name, layer in layers.items():
            if STORED.fullmatch(name):
                weight = cast(nn.Parameter, layer.weight)
                stored, exponents = round_to_fp8(weight)
                kept.append((layer, weight.data.cpu()))
                weight.data = stored
                part = Widened(exponents, dtype)
                parametrize.register_parametrization(layer, "weight", part, unsafe=True)
        yield
    finally:
        for layer, own in kept:
            _restore(layer, own)


def _restore(layer: nn.Module, own: Tensor) -> None:
    stored = cast(Any, layer).parametrizations.weight.original
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    stored.data = own.to(stored.device)


def fp8_saving(layers: Mapping[str, nn.Module]) -> int:
    """By how many bytes `stored_in_fp8` makes these layers smaller."""
    weights = (
        cast(Tensor, layer.weight) for name, layer in layers.items() if STORED.fullmatch(name)
    )
    return sum(one.numel() * (one.itemsize - 1) - len(one) for one in weights)


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
