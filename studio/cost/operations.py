"""Counts what a pass through a base takes: operations, calls, and bytes of tensors."""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from studio.adapters.delta import Sparse, weight_shape
from studio.bases.base import Base
from studio.cost.fake_base import fake_base, rebuild, run_unet, to_fake

if TYPE_CHECKING:
    from studio.adapters.delta import Delta

ATTENTION_BACKWARD = 2.5  # of its forward products: one of the two is computed again


@dataclass(frozen=True)
class PassCost:
    """What one pass takes.

    forward, backward: floating point operations. base_forward: those of the base's own layers.
    calls: operations on tensors in the forward pass. written: bytes of the tensors that they make.
    most: bytes of these tensors that are there at a time. saved: bytes that autograd keeps for the
    backward pass.
    """

    forward: float
    base_forward: float
    calls: int
    written: int
    most: int = 0
    backward: float = 0.0
    saved: int = 0

    @property
    def operations(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward


def evaluation_cost(base: Base, *, size: tuple[int, int], rows: int) -> PassCost:
    """So many pictures through the UNet. size: height and width in pixels."""
    fake, counter = FakeTensorMode(), OperationCounter({}, {})
    model = fake_base(base, fake)
    with torch.no_grad(), fake, counter:
        run_unet(model, size, rows)
    return counter.cost()


def encoding_cost(base: Base, *, size: tuple[int, int]) -> PassCost:
    """A picture through the VAE's encoder. size: height and width in pixels."""
    return _vae_cost(base, "encode", (3, *size))


def decoding_cost(base: Base, *, size: tuple[int, int]) -> PassCost:
    """The latents of a picture through the VAE's decoder. size: height and width in pixels."""
    height, width = (side // base.latent_factor for side in size)
    return _vae_cost(base, "decode", (4, height, width))


def _vae_cost(base: Base, method: str, shape: tuple[int, ...]) -> PassCost:
    fake, counter = FakeTensorMode(), OperationCounter({}, {})
    vae = to_fake(rebuild(base.vae), fake)
    with torch.no_grad(), fake, counter:
        getattr(vae, method)(torch.randn(1, *shape, dtype=base.vae.dtype))
    return counter.cost()


class OperationCounter(TorchDispatchMode):
    """Inside the block, counts floating point operations and those of the backward pass."""

    def __init__(self, layers: Mapping[str, nn.Module], deltas: "Mapping[str, Delta]") -> None:
        super().__init__()
        self._calls, self._written, self._forward = 0, 0, 0.0
        self._there = self._most = 0
        self._attention, self._layers, self._base_backward = 0.0, 0.0, 0.0
        for name, layer in layers.items():
            # A sparse change takes the gradient of the whole weight.
            sparse, row = isinstance(deltas.get(name), Sparse), prod(weight_shape(layer)[1:])
            count = partial(self._count_layer, row=row, weight_gradient=sparse)
            layer.register_forward_hook(count)

    def __torch_dispatch__(self, called, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = called(*args, **kwargs)
        if called.namespace not in ("aten", "bitsandbytes"):
            return result
        self._calls += 1
        for tensor in _new_tensors(args, result):
            self._written += tensor.numel() * tensor.itemsize
            self._watch(tensor.untyped_storage())
        flops = 0
        if "scaled_dot_product" in called.__name__:
            flops = 4 * args[0].numel() * args[1].shape[-2]
            self._attention += flops
            learns = any(one.requires_grad for one in args[:3])
            self._base_backward += ATTENTION_BACKWARD * flops * learns
        elif called.overloadpacket in flop_registry:
            flops = flop_registry[called.overloadpacket](*args, **kwargs, out_val=result)
        self._forward += flops
        return result

    def cost(self) -> PassCost:
        """The forward pass."""
        base_forward = self._layers + self._attention
        return PassCost(self._forward, base_forward, self._calls, self._written, self._most)

    def backward(self) -> float:
        """Operations of the backward pass: both factors of what deltas multiply have gradients."""
        return self._base_backward + 2 * (self._forward - self._layers - self._attention)

    def _watch(self, storage: torch.UntypedStorage) -> None:
        """Count a tensor's bytes among those that are there, as long as it is."""
        size = storage.nbytes()
        self._there += size
        self._most = max(self._most, self._there)
        weakref.finalize(storage, self._let_go, size)

    def _let_go(self, size: int) -> None:
        self._there -= size

    def _count_layer(
        self,
        layer: nn.Module,
        args: tuple[Tensor, ...],
        output: Tensor,
        *,
        row: int,
        weight_gradient: bool,
    ) -> None:
        """Count a layer's own product of rows so long; the gradient of its input is another."""
        flops = 2.0 * output.numel() * row
        self._layers += flops
        self._base_backward += flops * (args[0].requires_grad + weight_gradient)


def _new_tensors(args: Sequence[object], result: object) -> list[Tensor]:
    """The resulting tensors that are not views of the arguments."""
    given = {storage_of(one) for one in args if isinstance(one, Tensor)}
    results = result if isinstance(result, tuple | list) else (result,)
    tensors = [one for one in results if isinstance(one, Tensor)]
    return [one for one in tensors if storage_of(one) not in given]


def storage_of(tensor: Tensor) -> int:
    """Where its numbers lie, which views have in common."""
    return tensor.untyped_storage()._cdata
