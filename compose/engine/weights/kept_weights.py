"""The changed weights of a mix, kept from step to step and picture to picture, within a budget.

A weight that doesn't fit in the budget is computed whenever its layer runs, from the same numbers
in the same way. So the free memory decides how fast a picture is made, and never what it shows.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from compose.engine.weights.adapter_change import DenseChanges
from compose.engine.weights.batched_layers import Factors, MemoryBudget, Unkept
from compose.engine.weights.mixed_weights import WeightMix, add_factors, changed_weight, factors
from studio.adapters.delta import Layer

Key = tuple[str, WeightMix]


@dataclass(eq=False)
class KeptWeights:
    """Changed weights by layer and mix.

    budget: bytes left for more weights; None while there is no limit. lean: for weights that aren't
    kept, don't keep their low-rank factors either. refused: bytes of weights that didn't fit.
    told: whether the user was warned of that.
    """

    budget: MemoryBudget | None = None
    lean: bool = False
    refused: int = 0
    told: bool = False
    weights: dict[Key, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all kept weights."""
        return sum(one.nbytes for one in self.weights.values())

    def limit(self, most: int) -> bool:
        """Keep at most this many bytes from now on; return whether to prepare all layers anew.

        That is so if the kept weights exceed the limit, or if the refused weights now fit.
        """
        left = most - self.nbytes
        stale = left < 0 or 0 < self.refused <= left
        if left < 0:
            self.weights, left = {}, most
        if stale:
            self.refused, self.told = 0, False
        self.budget = MemoryBudget(left)
        return stale

    def release(self, wanted: Collection[Key]) -> None:
        """Drop all weights but the wanted ones."""
        self.weights = {key: one for key, one in self.weights.items() if key in wanted}

    def weight(
        self, name: str, mix: WeightMix, layers: Mapping[str, nn.Module], dense: DenseChanges
    ) -> Tensor | Unkept:
        """The changed weight or bias of a layer; see `changed_weight`."""
        if (name, mix) in self.weights:
            return self.weights[name, mix]
        compute = partial(changed_weight, name, mix, layers, dense=dense)
        layer = cast(Layer, layers[name]) if name in layers else None
        own = None if layer is None else layer.weight
        # Vectors are so small that they are always kept.
        if own is None or own.ndim < 2 or self.budget is None or self.budget.take(own.nbytes):
            self.weights[name, mix] = compute()
            return self.weights[name, mix]
        self.refused += own.nbytes
        low_rank = None if self.lean else factors(name, mix, layers, dtype=torch.float32)
        if low_rank is not None:
            assert layer is not None
            compute = partial(_add_to, layer, low_rank)
        return Unkept(compute)


def _add_to(layer: Layer, change: Factors) -> Tensor:
    """The layer's weight with a change, read at each use, as a quantized weight is dequantized."""
    return add_factors(layer.weight, change)
