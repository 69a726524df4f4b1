"""Merge adapters into the base of a distillation or an alignment, for as long as it runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from studio.adapters.adapter import Adapter
from studio.adapters.compatibility import check_fits
from studio.adapters.delta import Layer
from studio.adapters.load import load_adapter
from studio.adapters.token_embeddings import Embeddings
from studio.bases.base import Base


@dataclass(frozen=True, eq=False)
class Mixed:
    """Adapters and their strengths."""

    adapters: tuple[tuple[Adapter, float], ...] = ()

    @property
    def files(self) -> list[tuple[str, float]]:
        """The SHA-256 of each adapter's file, and its strength."""
        return [(adapter.sha256, strength) for adapter, strength in self.adapters]

    @property
    def words(self) -> Embeddings:
        """The learned words of all adapters."""
        return {word: rows for a, _ in self.adapters for word, rows in a.embeddings.items()}

    @contextmanager
    def merged(self, base: Base) -> Iterator[None]:
        """Within the block, the base has the adapters in its weights and knows their words."""
        with base.use_weights(self._weights(base)), base.use_embeddings(self.words):
            yield

    @torch.no_grad()
    def _weights(self, base: Base) -> dict[str, Tensor]:
        """The weights W + sum of strength x dW by layer name, biases by the name and ".bias".

        They are summed in float32 and have the base's own precision.
        """
        weights: dict[str, Tensor] = {}
        for name, module in base.layers_and_norms().items():
            layer = cast(Layer, module)
            deltas = [(a.deltas[name], s) for a, s in self.adapters if name in a.deltas]
            if deltas:
                own = layer.weight
                changes = (strength * delta.dense(own) for delta, strength in deltas)
                weights[name] = sum(changes, own.float()).to(own.dtype)
            biases = [strength * delta.bias for delta, strength in deltas if delta.bias is not None]
            if biases and layer.bias is not None:
                weights[f"{name}.bias"] = sum(biases, layer.bias.float()).to(layer.bias.dtype)
        return weights


def read_mixed(adapters: Sequence[tuple[str, float]], base: Base) -> Mixed:
    """Load adapters to the base's device. Raises BadInput for one that does not fit the base."""
    loaded = [(load_adapter(file, base=base), strength) for file, strength in adapters]
    for adapter, _ in loaded:
        check_fits(adapter, base)
    return Mixed(tuple((adapter.to(base.device), strength) for adapter, strength in loaded))
