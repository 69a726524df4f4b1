"""Changed weights: computed once for a mix, kept between pictures, let go when the mix changes.

Kept beside a base: the plan, the folded weights and the encoded texts of its last shot, and the
palette of the previews. The base itself is changed only inside `studio.delta.folded`, which swaps
storages.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from compose._method import Combine, Method, Mix, Plan
from studio.delta import Layer

if TYPE_CHECKING:
    from studio.adapter import Adapter
    from studio.base import Base, Text

__all__ = [
    "Blend",
    "Change",
    "Kept",
    "blends",
    "carries_deltas",
    "changed_weight",
    "ingredients",
    "kept_on",
]


class Blend(NamedTuple):
    """What a layer's weight carries.

    shares: in order of addition, (adapter, version of its tensors, strength). combine: see Mix.
    """

    shares: tuple[tuple["Adapter", int, float], ...]
    combine: Combine | None


# What the text encoders carry, as a whole.
TextBlend = frozenset[tuple[str, Blend]]

MOST_TEXTS = 64


@dataclass(frozen=True, eq=False)
class Change:
    """An adapter of the shot on this base: what a method sees of it (_method.Ingredient)."""

    adapter: "Adapter"
    strength: float
    layers: Mapping[str, nn.Module]
    version: int

    def changed(self) -> list[str]:
        """The layers that it changes and this base has."""
        return [layer for layer in self.adapter.deltas if layer in self.layers]

    def change(self, layer: str) -> Tensor:
        """float32, shaped as the layer's weight and beside it: the change at strength 1."""
        weight = cast(Layer, self.layers[layer]).weight.detach()
        delta = self.adapter.deltas[layer]
        if any(tensor.device != weight.device for tensor in delta.parameters()):
            delta = copy.deepcopy(delta).to(weight.device)  # of one layer at a time
        with torch.no_grad():
            return delta.dense(weight).detach()  # it may be a view of what is trained


@dataclass
class Kept:
    """What outlives a picture, for the next one on the same base."""

    weights: dict[tuple[str, Blend], Tensor] = field(default_factory=dict)
    texts: dict[tuple[str, TextBlend], "Text"] = field(default_factory=dict)
    palette: Tensor | None = None
    _planned: tuple[object, Plan] | None = None

    def plan(self, method: Method, changes: "Sequence[Change]", steps: int) -> Plan:
        """The method made ready; that of the last shot again where nothing it rests on differs."""
        mixed = [(one.adapter, one.version, one.strength) for one in changes]
        wanted = (type(method), method, mixed, steps)
        if self._planned is None or self._planned[0] != wanted:
            self._planned = wanted, method.prepare(changes, steps)
        return self._planned[1]

    def release(self, weights: set[tuple[str, Blend]], texts: set[TextBlend]) -> None:
        """Let go of what neither these weights, these texts' encoders nor the plain base need."""
        texts = texts | {frozenset()}
        self.weights = {key: kept for key, kept in self.weights.items() if key in weights}
        inside = [(key, kept) for key, kept in self.texts.items() if key[1] in texts]
        self.texts = dict(inside[-MOST_TEXTS:])


_KEPT: "WeakKeyDictionary[Base, Kept]" = WeakKeyDictionary()


def kept_on(base: "Base") -> Kept:
    """What is kept for this base; it goes when the base goes."""
    return _KEPT.setdefault(base, Kept())


def ingredients(base: "Base", pairs: "Iterable[tuple[Adapter, float]]") -> list[Change]:
    """The shot's adapters on this base."""
    return [
        Change(adapter, float(strength), base.layers(), _version(adapter))
        for adapter, strength in pairs
    ]


def blends(mix: Mix, changes: Sequence[Change], *, unet: bool) -> dict[str, Blend]:
    """What each changed tensor carries under a mix, in the UNet or in the text encoders.

    Keyed as `studio.delta.folded` wants them: a layer's name, or with ".bias" behind it.
    """
    found: dict[str, list[tuple[Adapter, int, float]]] = {}
    for part in mix.parts if unet or mix.text is None else mix.text:
        if part.strength == 0:
            continue
        one = changes[part.adapter]
        entry = (one.adapter, one.version, part.strength)
        for layer, delta in one.adapter.deltas.items():
            # A layer that this base lacks is left out: check_fits has counted it.
            if layer not in one.layers or layer.startswith("unet.") != unet:
                continue
            if part.layers is None or layer in part.layers:
                found.setdefault(layer, []).append(entry)
                if delta.bias is not None:
                    found.setdefault(f"{layer}.bias", []).append(entry)
    return {name: Blend(tuple(entries), mix.combine) for name, entries in found.items()}


def changed_weight(name: str, blend: Blend, changes: Sequence[Change]) -> Tensor:
    """W + sum of strength x dW, or what they combine to, in float32; kept in W's own precision.

    name: of a layer, or with ".bias" behind it for the sum over its bias.
    """
    of = {change.adapter: change for change in changes}
    layers = changes[0].layers
    is_weight = name in layers
    layer = cast(Layer, layers[name if is_weight else name.removesuffix(".bias")])
    own = cast(Tensor, layer.weight if is_weight else layer.bias).detach()
    shares = []
    for adapter, _, strength in blend.shares:
        if is_weight:
            change = of[adapter].change(name)
        else:
            bias = adapter.deltas[name.removesuffix(".bias")].bias
            assert bias is not None  # or there were no such name
            change = bias.detach().to(own.device, torch.float32)
        shares.append(strength * change)
    if is_weight and blend.combine is not None:
        shares = [blend.combine(name, shares)]
    return sum(shares, own.float()).to(own.dtype)


def carries_deltas(layers: Mapping[str, nn.Module]) -> bool:
    """Whether a training has its deltas attached to any of these layers just now."""
    return any("forward" in vars(layer) for layer in layers.values())


def _version(adapter: "Adapter") -> int:
    """Counts the in-place changes made to the tensors, so that trained-on ones are seen as new."""
    return sum(
        tensor._version
        for delta in adapter.deltas.values()
        for tensor in _tensors(delta)
        if not tensor.is_inference()
    )


def _tensors(delta: nn.Module) -> Iterator[Tensor]:
    yield from delta.parameters()
    yield from delta.buffers()
