"""Two ways to apply deltas to a base and to remove them completely."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from studio.adapters.delta.layer import adaptable
from studio.errors import BadInput

if TYPE_CHECKING:
    from studio.adapters.delta import Delta


@contextmanager
def attach(layers: Mapping[str, nn.Module], deltas: Mapping[str, "Delta"]) -> Iterator[None]:
    """Within the block, the output of every named layer goes through its delta.

    Normalisations are not attached to, since no training changes them.
    Raises BadInput for a name that is no layer of the base, before anything is changed.
    """
    chosen = [(adaptable(_named(layers, name)), delta) for name, delta in deltas.items()]
    for layer, _ in chosen:
        if "forward" in vars(layer):
            raise RuntimeError("a layer carries one delta at a time: leave the first block first")
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

    merged: by layer name; a name with ".bias" behind it is that layer's bias. Raises BadInput for
    a name that is no layer of the base, ValueError for another shape, before anything is changed.
    Afterwards the layers have the very same storage as before.
    """
    swaps: list[tuple[Tensor, Tensor, Tensor]] = []
    for name, tensor in merged.items():
        own = _own_tensor(layers, name)
        if own.shape != tensor.shape:
            raise ValueError(f"{name} is shaped {tuple(own.shape)}, not {tuple(tensor.shape)}")
        swaps.append((own, own.data, tensor.detach().to(own.device, own.dtype)))
    try:
        for own, _, other in swaps:
            own.data = other
        yield
    finally:
        for own, original, _ in swaps:
            own.data = original


def _named(layers: Mapping[str, nn.Module], name: str) -> nn.Module:
    if name not in layers:
        raise BadInput(f"the base has no layer {name}: the adapter was made for another base")
    return layers[name]


def _own_tensor(layers: Mapping[str, nn.Module], name: str) -> Tensor:
    kind = "weight"
    if name not in layers and name.endswith(".bias"):
        name, kind = name.removesuffix(".bias"), "bias"
    if kind in getattr(_named(layers, name), "parametrizations", ()):
        raise RuntimeError(f"{name} has no weight of its own now: it is stored in fp8")
    own = getattr(_named(layers, name), kind)
    if own is None:
        raise BadInput(f"the base has no {name}.{kind}: the adapter was made for another base")
    return own
