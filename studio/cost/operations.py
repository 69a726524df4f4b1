"""Count what a pass through a base takes: operations, calls, and bytes of tensors."""

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

# The cost of attention's backward pass relative to its forward pass, whose two products have four
# gradients; one of the products is computed again.
ATTENTION_BACKWARD = 2.5


@dataclass(frozen=True)
class PassCost:
    """What one pass takes.

    forward, backward: floating-point operations. base_forward: the part of `forward` that the base
    alone has, without deltas.
    calls: operations on tensors in the forward pass. written: bytes of the tensors that they make.
    most: the most bytes of these tensors that exist at a time.
    saved: bytes that autograd keeps for the backward pass.
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
        """Floating-point operations, forward and backward."""
        return self.forward + self.backward


def evaluation_cost(base: Base, *, size: tuple[int, int], rows: int) -> PassCost:
    """The cost of one evaluation of the UNet. size: height and width in pixels. rows: pictures."""
    fake, counter = FakeTensorMode(), OperationCounter({}, {})
    model = fake_base(base, fake)
    with torch.no_grad(), fake, counter:
        run_unet(model, size, rows)
    return counter.cost()


def encoding_cost(base: Base, *, size: tuple[int, int]) -> PassCost:
    """The cost of encoding one picture with the VAE. size: height and width in pixels."""
    return _vae_cost(base, "encode", (3, *size))


def decoding_cost(base: Base, *, size: tuple[int, int]) -> PassCost:
    """The cost of decoding one picture with the VAE. size: height and width in pixels."""
    height, width = (side // base.latent_factor for side in size)
    return _vae_cost(base, "decode", (4, height, width))


def _vae_cost(base: Base, method: str, shape: tuple[int, ...]) -> PassCost:
    fake, counter = FakeTensorMode(), OperationCounter({}, {})
    vae = to_fake(rebuild(base.vae), fake)
    with torch.no_grad(), fake, counter:
        getattr(vae, method)(torch.randn(1, *shape, dtype=base.vae.dtype))
    return counter.cost()


class OperationCounter(TorchDispatchMode):
    """Inside the block, counts what `PassCost` has, for the forward and the backward pass.

    layers: the base's layers, by name. deltas: those attached to them.
    """

    def __init__(self, layers: Mapping[str, nn.Module], deltas: "Mapping[str, Delta]") -> None:
        super().__init__()
        self._calls, self._written, self._forward = 0, 0, 0.0
        self._existing = self._most = 0
        self._attention, self._layers, self._base_backward = 0.0, 0.0, 0.0
        for name, layer in layers.items():
            # A sparse change computes the gradient of the whole weight.
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
            learns = any(tensor.requires_grad for tensor in args[:3])
            self._base_backward += ATTENTION_BACKWARD * flops * learns
        elif called.overloadpacket in flop_registry:
            flops = flop_registry[called.overloadpacket](*args, **kwargs, out_val=result)
        self._forward += flops
        return result

    def cost(self) -> PassCost:
        """The cost of the forward pass."""
        base_forward = self._layers + self._attention
        return PassCost(self._forward, base_forward, self._calls, self._written, self._most)

    def backward(self) -> float:
        """Operations of the backward pass. Both factors of a delta's products have gradients."""
        return self._base_backward + 2 * (self._forward - self._layers - self._attention)

    def _watch(self, storage: torch.UntypedStorage) -> None:
        """Count the bytes of a storage for as long as it exists."""
        size = storage.nbytes()
        self._existing += size
        self._most = max(self._most, self._existing)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self._existing -= size

    def _count_layer(
        self,
        layer: nn.Module,
        args: tuple[Tensor, ...],
        output: Tensor,
        *,
        row: int,
        weight_gradient: bool,
    ) -> None:
        """Count a layer's own product, and the products of its gradients.

        row: the number of factors of one output.
        """
        flops = 2.0 * output.numel() * row
        self._layers += flops
        self._base_backward += flops * (args[0].requires_grad + weight_gradient)


def _new_tensors(args: Sequence[object], result: object) -> list[Tensor]:
    """The resulting tensors that are not views of the arguments."""
    given = {storage_of(arg) for arg in args if isinstance(arg, Tensor)}
    results = result if isinstance(result, tuple | list) else (result,)
    tensors = [item for item in results if isinstance(item, Tensor)]
    return [tensor for tensor in tensors if storage_of(tensor) not in given]


def storage_of(tensor: Tensor) -> int:
    """The address of a tensor's storage, which its views share."""
    return tensor.untyped_storage()._cdata
