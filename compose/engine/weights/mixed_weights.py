"""The changes that a mix adds to each weight, and the changed weights."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

from compose.engine.method import Combine, Mix
from compose.engine.weights.adapter_change import Change, DenseChanges
from compose.engine.weights.batched_layers import Factors
from compose.engine.weights.combine import Projected, Truncated, joined
from studio.adapters.delta import BiasOnly, Delta, Layer, LowRank, weight_shape

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter

# An adapter, the version of its tensors, and its strength.
Share = tuple["Adapter", int, float]


class WeightMix(NamedTuple):
    """The changes to one weight, in the order in which they are added. combine: see Mix.

    ranks: the number of ranks of each share that act at a timestep, None for all; see
    `at_timestep`.
    """

    shares: tuple[Share, ...]
    combine: Combine | None
    ranks: tuple[int | None, ...] = ()

    def rank(self, place: int) -> int | None:
        """The rank of the share at this place; None for all ranks."""
        return self.ranks[place] if self.ranks else None


# The changes to all weights of the UNet or of the text encoders, by layer.
MixedWeights = frozenset[tuple[str, WeightMix]]


def mixed_weights(mix: Mix, changes: Sequence[Change], *, unet: bool) -> MixedWeights:
    """The changes of a mix to the weights of the UNet or of the text encoders.

    Weights have their layer's name, biases the layer's name and ".bias".
    """
    shares: dict[str, tuple[Share, ...]] = {}
    for part in mix.parts if unet or mix.text is None else mix.text:
        if part.strength == 0:
            continue
        one = changes[part.adapter]
        share = (one.adapter, one.version, part.strength)
        for layer, delta in one.adapter.deltas.items():
            # Layers that this base lacks are left out: check_fits has reported them.
            if layer not in one.layers or layer.startswith("unet.") != unet:
                continue
            if part.layers is None or layer in part.layers:
                for name in _changed_names(layer, delta):
                    shares[name] = (*shares.get(name, ()), share)
    # Layers with the same shares have the same object, so that a mix takes little time and memory.
    mixes = {of: WeightMix(of, mix.combine) for of in set(shares.values())}
    return frozenset((name, mixes[of]) for name, of in shares.items())


def depends_on_timestep(mixed: MixedWeights) -> bool:
    """Whether the rank of some adapter depends on the noise level, as with T-LoRA."""
    mixes = {mix for _, mix in mixed}
    return any(one.rank_schedule is not None for mix in mixes for one, _, _ in mix.shares)


def at_timestep(mixed: MixedWeights, timestep: float) -> MixedWeights:
    """The changes to the UNet with the ranks that act at a timestep."""

    def ranked(name: str, mix: WeightMix) -> WeightMix:
        ranks = tuple(
            one.rank_schedule.rank(timestep)
            if one.rank_schedule is not None and isinstance(one.deltas.get(name), LowRank)
            else None
            for one, _, _ in mix.shares
        )
        return mix._replace(ranks=ranks)

    return frozenset((name, ranked(name, mix)) for name, mix in mixed)


def _changed_names(layer: str, delta: Delta) -> list[str]:
    names = [] if isinstance(delta, BiasOnly) else [layer]
    return names if delta.bias is None else [*names, f"{layer}.bias"]


def changed_weight(
    name: str, mix: WeightMix, layers: Mapping[str, nn.Module], *, dense: DenseChanges
) -> Tensor:
    """W + sum of strength x dW, or W + the combined change: computed in float32, in W's dtype.

    name: a layer's name for its weight, or the layer's name and ".bias" for its bias.
    """
    is_weight = name in layers
    layer = cast(Layer, layers[name if is_weight else name.removesuffix(".bias")])
    own = cast(Tensor, layer.weight if is_weight else layer.bias).detach()
    low_rank = factors(name, mix, layers, dtype=torch.float32)
    if low_rank is not None:
        return add_factors(own, low_rank)
    shares = []
    for place, (adapter, version, strength) in enumerate(mix.shares):
        if is_weight:
            change = dense.change(adapter, version, name, layers, rank=mix.rank(place))
        else:
            bias = adapter.deltas[name.removesuffix(".bias")].bias
            assert bias is not None  # otherwise this name would not be listed
            change = bias.detach().to(own.device, torch.float32)
        shares.append(strength * change)
    if is_weight and mix.combine is not None:
        shares = [mix.combine(name, shares)]
    return sum(shares, own.float()).to(own.dtype)


def add_factors(own: Tensor, change: Factors) -> Tensor:
    """The weight with a low-rank change, computed in float32 and given in the weight's dtype."""
    total = torch.addmm(own.detach().float().flatten(1), change.up, change.down.flatten(1))
    return total.view(own.shape).to(own.dtype)


def factors(
    name: str, mix: WeightMix, layers: Mapping[str, nn.Module], *, dtype: torch.dtype
) -> Factors | None:
    """The combined change to a weight as low-rank factors; None where it is not low-rank."""
    deltas = [adapter.deltas[name] for adapter, _, _ in mix.shares if name in layers]
    if not deltas or not isinstance(mix.combine, Truncated | Projected | None):
        return None
    layer, parts = cast(Layer, layers[name]), []
    shape, device = weight_shape(layer), next(layer.parameters()).device
    for place, (delta, (_, _, strength)) in enumerate(zip(deltas, mix.shares, strict=True)):
        if not isinstance(delta, LowRank) or delta.magnitude is not None:
            return None
        scale = strength * delta.scale
        rank = mix.rank(place)
        down, up = delta.down.detach()[:rank], delta.up.detach()[:, :rank]
        down, up = (one.to(device, torch.float32) for one in (down, up))
        up = up.flatten(1) if scale == 1 else up.flatten(1) * scale
        parts.append(Factors(down.view(-1, *shape[1:]), up))
    total = joined(parts) if mix.combine is None else mix.combine.of_factors(name, parts)
    return Factors(total.down.to(dtype), total.up.to(dtype))
