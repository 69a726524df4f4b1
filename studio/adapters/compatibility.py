"""Whether an adapter fits a base: its family, its layers, their shapes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import nn

from studio.adapters.adapter import Adapter
from studio.adapters.adapter_header import AdapterHeader
from studio.adapters.delta import Delta, Rotation, Sparse, weight_shape
from studio.adapters.formats.metadata import FAMILIES
from studio.adapters.formats.survey import Contents
from studio.adapters.formats.weight_shapes import Blocks, Shape
from studio.adapters.token_embeddings import TEXT_ENCODERS, embedding_table
from studio.errors import BadInput

if TYPE_CHECKING:  # diffusers takes seconds
    from studio.bases.base import Base


@dataclass(frozen=True)
class Coverage:
    """How much of an adapter a base has layers for."""

    matched: int
    total: int
    missing: tuple[str, ...]
    base: str

    @property
    def sentence(self) -> str:
        """The coverage in words, such as "240 of 264 layers matched, base sdxl"."""
        return f"{self.matched} of {self.total} layers matched, base {self.base}"


_CHECKED: "WeakKeyDictionary[Base, WeakKeyDictionary[Adapter, Coverage]]" = WeakKeyDictionary()


def check_fits(adapter: Adapter, base: "Base") -> Coverage:
    """How many of the adapter's layers the base has.

    Raises BadInput where the family differs, no layer matches, or a layer has another shape. The
    answer is cached: a large base has hundreds of layers, and every picture asks.
    """
    cache = _CHECKED.setdefault(base, WeakKeyDictionary())
    if adapter not in cache:
        cache[adapter] = _check(adapter, base)
    return cache[adapter]


def check_header(file: AdapterHeader, base: "Base") -> Coverage:
    """`check_fits` for a file whose header alone was read: compare names and shapes."""
    contents = file.contents
    check_contents(contents, file.info.family, base, f"the adapter {file.path}")
    missing = tuple(layer for layer in contents.layers if layer not in base.layers_and_norms())
    total = len(contents.layers)
    return Coverage(total - len(missing), total, missing, base.name)


def check_contents(contents: Contents, family: str, base: "Base", who: str) -> None:
    """Compare the shapes in a header with the base's, before any tensor is read.

    family: "" where it is not known. who: what messages call the adapter. Raises BadInput as
    `check_fits` does.
    """
    check_weights(contents.weights, family, base, who)
    layers = base.layers_and_norms()
    for name, blocks in contents.rotations.items():
        if name in layers:
            _check_blocks(name, blocks, layers[name], base.name, who)


def _check(adapter: Adapter, base: "Base") -> Coverage:
    who = f"the adapter {adapter.path or adapter.name or adapter.kind}"
    check_weights({n: d.shape for n, d in adapter.deltas.items()}, adapter.family, base, who)
    _check_embeddings(adapter, base, who)
    layers, total = base.layers_and_norms(), len(adapter.deltas)
    if not total and not adapter.embeddings:
        raise BadInput(f"{who} changes nothing: it has no layers")
    for name, delta in adapter.deltas.items():
        if name in layers:
            _check_rows(name, delta, layers[name], base.name, who)
    _check_fingerprint(adapter, base, who)
    missing = tuple(layer for layer in adapter.deltas if layer not in layers)
    return Coverage(total - len(missing), total, missing, base.name)


def check_weights(weights: Mapping[str, Shape], family: str, base: "Base", who: str) -> None:
    """Compare the shapes of the weights that an adapter changes with the base's.

    weights: shape by layer; () where it is not known yet. family: "" where it is not known.
    Raises BadInput where the family differs, no layer matches, or a layer has another shape.
    """
    if family and family != base.family:
        raise BadInput(
            f"{who} was made for {FAMILIES[family]}, "
            f"and the base {base.name} is {FAMILIES[base.family]}: choose another adapter or base"
        )
    layers = base.layers_and_norms()
    if weights and not weights.keys() & layers.keys():
        raise BadInput(
            f"{who} has no layer that the base {base.name} has: its first is {next(iter(weights))}"
        )
    for name, shape in weights.items():
        if name in layers and shape:
            _check_shape(name, shape, layers[name], base.name, who)


def _check_shape(name: str, shape: Shape, layer: nn.Module, base: str, who: str) -> None:
    own = weight_shape(layer)
    if not _shapes_match(shape, own):
        raise BadInput(
            f"{who} was made for a base of another size: its {name} is "
            f"{_sides(shape)}, and that of {base} is {_sides(own)}"
        )


def _check_rows(name: str, delta: Delta, layer: nn.Module, base: str, who: str) -> None:
    """Compare what `delta.shape` does not show: bias, blocks of a rotation, DoRA's magnitudes."""
    own, bias = weight_shape(layer), layer.bias
    if delta.bias is not None:
        if not isinstance(bias, torch.Tensor):
            raise BadInput(f"{who} changes the bias of {name}, which has none in the base {base}")
        if delta.bias.shape != bias.shape:
            raise BadInput(
                f"{who} was made for a base of another size: its bias of {name} has "
                f"{len(delta.bias)} numbers, and that of {base} has {len(bias)}"
            )
    if isinstance(delta, Rotation):
        count, size = delta.layout
        blocks = Blocks(count, size, delta.of_inputs, delta.shared)
        _check_blocks(name, blocks, layer, base, who)
    magnitude = delta.magnitude
    if magnitude is not None and magnitude.numel() != own[0 if magnitude.ndim == 1 else 1]:
        raise BadInput(
            f"{who} has {magnitude.numel()} magnitudes for {name}, "
            f"which is {_sides(own)} in the base {base}: it was made for another base"
        )


def _check_blocks(name: str, blocks: Blocks, layer: nn.Module, base: str, who: str) -> None:
    own = weight_shape(layer)
    if not blocks.fit(own):
        side = "inputs" if blocks.of_inputs else "outputs"
        raise BadInput(
            f"{who} rotates {side} of {name} in {blocks.count} blocks of {blocks.size}, "
            f"which don't make up those of {base}, {_sides(own)}"
        )


def _check_embeddings(adapter: Adapter, base: "Base", who: str) -> None:
    encoders = dict(zip(TEXT_ENCODERS, base.text_encoders, strict=False))
    for token, rows_of in adapter.embeddings.items():
        for name, rows in rows_of.items():
            if name not in encoders:
                raise BadInput(
                    f"{who} has an embedding of {token!r} for a second text encoder, and the base "
                    f"{base.name} has one only: it was made for SDXL"
                )
            width = embedding_table(encoders[name]).embedding_dim
            if rows.shape[1] != width:
                raise BadInput(
                    f"{who} was made for a base of another size: its embedding of {token!r} is "
                    f"{rows.shape[1]} wide, and {name} of {base.name} reads {width}"
                )


def _check_fingerprint(adapter: Adapter, base: "Base", who: str) -> None:
    """Refuse SaRA of another base: it chose single weights, which mean nothing elsewhere."""
    sparse = any(isinstance(delta, Sparse) for delta in adapter.deltas.values())
    if sparse and adapter.fingerprint and adapter.fingerprint != base.fingerprint():
        raise BadInput(
            f"{who} changes single weights of {adapter.base or 'the base it was trained on'} "
            f"({adapter.fingerprint[:10]}), and the base {base.name} ({base.fingerprint()[:10]}) "
            "has others: open that base"
        )


def _shapes_match(delta: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    """Whether the shapes are equal, or one of them is the other flattened to a matrix."""
    if delta[0] != weight[0] or math.prod(delta) != math.prod(weight):
        return False
    return delta == weight or min(len(delta), len(weight)) == 2


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
