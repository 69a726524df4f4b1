"""Changed weights: computed once for a mix, kept between pictures, dropped when the mix changes.

Each base has a RenderCache. It keeps the plan, the changed weights and the encoded texts of the
last shot, and the palette of the previews. The base itself is changed only inside
`studio.adapters.delta.folded` and `compose.engine.batched_layers.PreparedLayers.applied`, which
swap storages.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from compose.engine.batched_layers import Factors, PreparedLayers
from compose.engine.combine import Truncated
from compose.engine.method import Call, Combine, Method, Mix, Plan, record
from studio.adapters.delta import Layer, LowRank

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter
    from studio.bases.base import Base
    from studio.bases.prompts import TextEmbedding

# An adapter, the version of its tensors, and its strength.
Share = tuple["Adapter", int, float]


class WeightMix(NamedTuple):
    """The changes that are mixed into one weight, in order of addition. combine: see Mix."""

    shares: tuple[Share, ...]
    combine: Combine | None


# The changes to all weights of the UNet or of the text encoders, by layer.
MixedWeights = frozenset[tuple[str, WeightMix]]

# A batch: bytes for weights of its rows, height and width of its latents, and for each block of
# rows their number and their weights.
Batch = tuple[int, tuple[int, int], tuple[tuple[int, MixedWeights], ...]]

# By layer and k: the sums that Change.size tells.
Sizes = dict[tuple[str, int], tuple[float, float]]

MOST_WRITTEN = 512 * 2**20  # bytes
MOST_TEXTS = 64
MOST_OF_MANY = 2048  # texts; for SDXL 1.3 GB in float32


@dataclass(frozen=True, eq=False)
class Change:
    """An adapter of the shot on this base: what a method sees of it (see MethodAdapter)."""

    adapter: "Adapter"
    strength: float
    layers: Mapping[str, nn.Module]
    version: int
    sizes: "Sizes" = field(default_factory=dict)

    def changed(self) -> list[str]:
        """The layers that it changes and this base has."""
        return [layer for layer in self.adapter.deltas if layer in self.layers]

    def change(self, layer: str) -> Tensor:
        """float32, shaped as the layer's weight and beside it: the change at strength 1."""
        return _change(self.adapter, layer, self.layers)

    def size(self, layer: str, k: int) -> tuple[float, float]:
        """At strength 1 the sum of its k largest |dW| in a layer, and of all."""
        if (layer, k) not in self.sizes:
            self.sizes[layer, k] = entry_sums(self.change(layer), k)
        return self.sizes[layer, k]


class DenseChanges:
    """Changes at strength 1 as whole tensors, so that another strength or method costs a sum.

    Not of low-rank ones, whose product is made in the same time. Where there is no room for more,
    they are made anew.
    """

    def __init__(self, *, most: int = MOST_WRITTEN) -> None:
        self.most, self.nbytes = most, 0
        self._changes: dict[tuple[Adapter, int, str], Tensor] = {}

    def change(
        self, adapter: "Adapter", version: int, layer: str, layers: Mapping[str, nn.Module]
    ) -> Tensor:
        """float32, shaped as the layer's weight and beside it."""
        key = adapter, version, layer
        if key not in self._changes:
            found = _change(adapter, layer, layers)
            if self.nbytes + found.nbytes > self.most:
                return found
            self._changes[key] = found
            self.nbytes += found.nbytes
        return self._changes[key]

    def release(self, used: "set[tuple[Adapter, int]]") -> None:
        """Let go of the changes of all other adapters, and versions of their tensors."""
        self._changes = {key: one for key, one in self._changes.items() if key[:2] in used}
        self.nbytes = sum(one.nbytes for one in self._changes.values())


@dataclass(frozen=True, eq=False)
class PlannedMethod:
    """A method made ready for some adapters and a number of steps.

    calls: of each step. weights: of the mixes it asks for, in the UNet or in the text encoders.
    """

    plan: Plan
    calls: list[list[Call]]
    weights: dict[tuple[Mix, bool], MixedWeights] = field(default_factory=dict)


@dataclass
class RenderCache:
    """What outlives a picture, for the next one on the same base."""

    weights: dict[tuple[str, WeightMix], Tensor] = field(default_factory=dict)
    prepared: dict[Batch, PreparedLayers] = field(default_factory=dict)
    steady: bool = False  # whether each of the shots at work wears the same at every step
    texts: dict[tuple[str, MixedWeights], "TextEmbedding"] = field(default_factory=dict)
    written: DenseChanges = field(default_factory=DenseChanges)
    palette: Tensor | None = None
    # Of each adapter for one version of its tensors.
    sizes: "WeakKeyDictionary[Adapter, tuple[int, Sizes]]" = field(
        default_factory=WeakKeyDictionary
    )
    # Of latents [h, w], where the memory held no more.
    most_rows: dict[tuple[int, int], int] = field(default_factory=dict)
    training: bool = False  # whether a training has its deltas on the layers now
    _planned: tuple[object, PlannedMethod] | None = None
    _most_texts: int = MOST_TEXTS

    @contextmanager
    def for_many(self, texts: int) -> Iterator[None]:
        """Keep up to so many texts until the block is left; then restore the limits of rows."""
        rows = self.most_rows
        self.most_rows, self._most_texts = dict(rows), max(MOST_TEXTS, min(texts, MOST_OF_MANY))
        try:
            yield
        finally:
            self.most_rows, self._most_texts = rows, MOST_TEXTS

    def plan(
        self, method: Method, changes: "Sequence[Change]", beside: "Sequence[Change]", steps: int
    ) -> PlannedMethod:
        """The method made ready; that of the last shot again where nothing it rests on differs.

        beside: the adapters that only carry embeddings.
        """
        adapters = [
            [(o.adapter, o.version, o.strength) for o in some] for some in (changes, beside)
        ]
        wanted = (type(method), method, adapters, steps)
        if self._planned is None or self._planned[0] != wanted:
            plan = method.prepare(changes, steps)
            self._planned = wanted, PlannedMethod(plan, record(plan, steps))
        return self._planned[1]

    def release(self, unet: set[MixedWeights], texts: set[MixedWeights]) -> None:
        """Let go of what neither these UNets, these texts' encoders nor the plain base need."""
        texts = texts | {frozenset()}
        weights = frozenset[tuple[str, WeightMix]]().union(*unet)
        shares = {share for _, blend in weights.union(*texts) for share in blend.shares}
        self.written.release({(adapter, version) for adapter, version, _ in shares})
        self.weights = {key: kept for key, kept in self.weights.items() if key in weights}
        self.prepared = {
            key: kept
            for key, kept in self.prepared.items()
            if all(worn in unet for _, worn in key[2])
        }
        inside = [(key, kept) for key, kept in self.texts.items() if key[1] in texts]
        self.texts = dict(inside[-self._most_texts :])


_CACHES: "WeakKeyDictionary[Base, RenderCache]" = WeakKeyDictionary()


def cache_of(base: "Base") -> RenderCache:
    """What is kept for this base; it goes when the base goes."""
    return _CACHES.setdefault(base, RenderCache())


def adapters_on(base: "Base", pairs: "Iterable[tuple[Adapter, float]]") -> list[Change]:
    """The shot's adapters on this base."""
    sizes = cache_of(base).sizes
    changes = []
    for adapter, strength in pairs:
        version = _version(adapter)
        if sizes.get(adapter, (None,))[0] != version:
            sizes[adapter] = version, {}
        known = sizes[adapter][1]
        changes.append(Change(adapter, float(strength), base.layers(), version, known))
    return changes


def entry_sums(change: Tensor, k: int) -> tuple[float, float]:
    """The sum of the k largest |entries|, all where there are fewer, and the sum of all."""
    entries = change.abs().flatten()
    top = entries.topk(min(k, len(entries)), sorted=False).values
    return float(top.double().sum()), float(entries.double().sum())


def mixed_weights(mix: Mix, changes: Sequence[Change], *, unet: bool) -> MixedWeights:
    """What each changed tensor carries under a mix, in the UNet or in the text encoders.

    Named as `studio.adapters.delta.folded` wants them: by a layer, or with ".bias" behind it.
    """
    shares: dict[str, tuple[Share, ...]] = {}
    for part in mix.parts if unet or mix.text is None else mix.text:
        if part.strength == 0:
            continue
        one = changes[part.adapter]
        share = (one.adapter, one.version, part.strength)
        for layer, delta in one.adapter.deltas.items():
            # A layer that this base lacks is left out: check_fits has counted it.
            if layer not in one.layers or layer.startswith("unet.") != unet:
                continue
            if part.layers is None or layer in part.layers:
                for name in [layer] if delta.bias is None else [layer, f"{layer}.bias"]:
                    shares[name] = (*shares.get(name, ()), share)
    # Layers with the same shares have one object, so that a mix costs little to make and keep.
    blends = {of: WeightMix(of, mix.combine) for of in set(shares.values())}
    return frozenset((name, blends[of]) for name, of in shares.items())


def changed_weight(
    name: str, blend: WeightMix, layers: Mapping[str, nn.Module], *, written: "DenseChanges"
) -> Tensor:
    """W + sum of strength x dW, or what they combine to, in float32; kept in W's own precision.

    name: of a layer, or with ".bias" behind it for the sum over its bias. written: the changes
    that were written out before.
    """
    is_weight = name in layers
    layer = cast(Layer, layers[name if is_weight else name.removesuffix(".bias")])
    own = cast(Tensor, layer.weight if is_weight else layer.bias).detach()
    thin = factors(name, blend, layers, dtype=torch.float32)
    if thin is not None:  # one product for all shares, and none of them written out
        total = torch.addmm(own.float().flatten(1), thin.up, thin.down.flatten(1))
        return total.view(own.shape).to(own.dtype)
    shares = []
    for adapter, version, strength in blend.shares:
        if is_weight:
            change = written.change(adapter, version, name, layers)
        else:
            bias = adapter.deltas[name.removesuffix(".bias")].bias
            assert bias is not None  # or there were no such name
            change = bias.detach().to(own.device, torch.float32)
        shares.append(strength * change)
    if is_weight and blend.combine is not None:
        shares = [blend.combine(name, shares)]
    return sum(shares, own.float()).to(own.dtype)


def factors(
    name: str, blend: WeightMix, layers: Mapping[str, nn.Module], *, dtype: torch.dtype
) -> Factors | None:
    """The same change as factors; None where it is not low-rank."""
    deltas = [adapter.deltas[name] for adapter, _, _ in blend.shares if name in layers]
    if not deltas or not isinstance(blend.combine, Truncated | None):
        return None
    weight = cast(Layer, layers[name]).weight
    downs, ups = [], []
    for delta, (_, _, strength) in zip(deltas, blend.shares, strict=True):
        if not isinstance(delta, LowRank) or delta.magnitude is not None:
            return None
        scale = strength * delta.scale
        down, up = delta.down.detach(), delta.up.detach()
        down, up = (one.to(weight.device, torch.float32) for one in (down, up))
        downs.append(down.view(-1, *weight.shape[1:]))
        ups.append(up.flatten(1) if scale == 1 else up.flatten(1) * scale)
    # Of one alone nothing is copied: of many adapters this is done for each of many layers.
    one = len(deltas) == 1
    found = Factors(*(downs + ups if one else (torch.cat(downs), torch.cat(ups, dim=1))))
    if blend.combine is not None:
        found = blend.combine.of_factors(found)
    return Factors(found.down.to(dtype), found.up.to(dtype))


def _change(adapter: "Adapter", layer: str, layers: Mapping[str, nn.Module]) -> Tensor:
    """An adapter's change to a layer at strength 1; see Change.change."""
    weight = cast(Layer, layers[layer]).weight.detach()
    delta = adapter.deltas[layer]
    if any(tensor.device != weight.device for tensor in delta.parameters()):
        delta = copy.deepcopy(delta).to(weight.device)  # of one layer at a time
    with torch.no_grad():
        return delta.dense(weight).detach()  # it may be a view of what is trained


def _version(adapter: "Adapter") -> int:
    """Counts the in-place changes made to the tensors, so that trained-on ones are seen as new."""
    return sum(tensor._version for tensor in _tensors(adapter) if not tensor.is_inference())


def _tensors(adapter: "Adapter") -> Iterator[Tensor]:
    for delta in adapter.deltas.values():
        yield from _inside(delta)
    for own in adapter.embeddings.values():
        yield from own.values()


def _inside(delta: nn.Module) -> Iterator[Tensor]:
    """As `parameters` and `buffers`, which take ten times as long over hundreds of deltas."""
    inside = vars(delta)
    yield from (one for one in inside["_parameters"].values() if one is not None)
    yield from (one for one in inside["_buffers"].values() if one is not None)
    for child in inside["_modules"].values():
        yield from _inside(child)
