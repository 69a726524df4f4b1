"""Two ways to apply deltas to a base and to remove them completely."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from studio.adapters.delta.layer import adaptable, weight_shape
from studio.errors import BadInput

if TYPE_CHECKING:
    from studio.adapters.delta import Delta


@contextmanager
def attach(layers: Mapping[str, nn.Module], deltas: Mapping[str, "Delta"]) -> Iterator[None]:
    """Within the block, the output of every named layer goes through its delta.

    Normalisations are not attached to, since no training changes them.
    Raises BadInput for a name that is no layer of the base, and for a base that carries deltas
    already, before anything is changed.
    """
    chosen = [(adaptable(_named(layers, name)), delta) for name, delta in deltas.items()]
    for layer, _ in chosen:
        if "forward" in vars(layer):
            raise BadInput(
                "another training has its adapter on this base: end that one first (close it), or "
                "open the base once more"
            )
    try:
        for layer, delta in chosen:
            vars(layer)["forward"] = partial(delta.forward, layer)
        yield
    finally:
        for layer, _ in chosen:
            vars(layer).pop("forward", None)


@contextmanager
def detached(layers: Mapping[str, nn.Module], names: Collection[str]) -> Iterator[None]:
    """Within a block inside `attach`, remove the deltas of these layers."""
    forwards = {name: vars(layers[name]).pop("forward") for name in names}
    try:
        yield
    finally:
        for name, forward in forwards.items():
            vars(layers[name])["forward"] = forward


@contextmanager
def swap_weights(layers: Mapping[str, nn.Module], merged: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block, replace the named layers' weights.

    merged: new weights by layer name; a name that ends in ".bias" is the layer's bias. Raises
    BadInput for a name that is no layer of the base, ValueError for another shape, before anything
    is changed. Afterwards the layers have the very same storage as before.
    """
    swaps: list[tuple[Tensor, Tensor, Tensor]] = []
    quantized: list[tuple[nn.ModuleDict, nn.Module, nn.Module]] = []
    for name, tensor in merged.items():
        layer, kind, own = _own_tensor(layers, name)
        if own.shape != tensor.shape:
            raise ValueError(f"{name} is shaped {tuple(own.shape)}, not {tuple(tensor.shape)}")
        other = tensor.detach().to(own.device, own.dtype)
        if is_parametrized(layer, kind):
            table = cast(nn.ModuleDict, layer.parametrizations)
            quantized.append((table, table["weight"], _FixedWeight(other)))
        else:
            swaps.append((own, own.data, other))
    try:
        for own, _, other in swaps:
            own.data = other
        for table, _, fixed in quantized:
            table["weight"] = fixed
        yield
    finally:
        for own, original, _ in swaps:
            own.data = original
        for table, stored, _ in quantized:
            table["weight"] = stored


class _FixedWeight(nn.Module):
    """Takes the place of a quantized layer's parametrization, and returns an unquantized weight."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self) -> Tensor:
        return self.weight


def _stored(layer: nn.Module) -> Tensor:
    """A tensor with a quantized weight's shape, dtype and device, without dequantizing it."""
    part = cast(Any, layer.parametrizations)["weight"]
    if isinstance(part, _FixedWeight):  # within the block of another swap
        return part.weight
    return part.original.new_empty((), dtype=part[0].dtype).expand(weight_shape(layer))


def _named(layers: Mapping[str, nn.Module], name: str) -> nn.Module:
    if name not in layers:
        raise BadInput(f"the base has no layer {name}: the adapter was made for another base")
    return layers[name]


def _own_tensor(
    layers: Mapping[str, nn.Module], name: str
) -> tuple[nn.Module, Literal["weight", "bias"], Tensor]:
    """The layer that a name means, whether its weight or its bias, and that tensor."""
    kind = "weight"
    if name not in layers and name.endswith(".bias"):
        name, kind = name.removesuffix(".bias"), "bias"
    layer = _named(layers, name)
    own = _stored(layer) if is_parametrized(layer, kind) else getattr(layer, kind)
    if own is None:
        raise BadInput(f"the base has no {name}.{kind}: the adapter was made for another base")
    return layer, kind, own
