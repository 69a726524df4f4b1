"""The adapters that are merged into the base of a distillation, for as long as it runs."""

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
    """Adapters with their strengths."""

    adapters: tuple[tuple[Adapter, float], ...] = ()

    @property
    def files(self) -> list[tuple[str, float]]:
        """The SHA-256 of each file with its strength."""
        return [(adapter.sha256, strength) for adapter, strength in self.adapters]

    @property
    def words(self) -> Embeddings:
        """The words that they let prompts say."""
        return {word: rows for one, _ in self.adapters for word, rows in one.embeddings.items()}

    @contextmanager
    def merged(self, base: Base) -> Iterator[None]:
        """Within the block the base has them in its weights, and knows their words."""
        with base.use_weights(self._weights(base)), base.use_embeddings(self.words):
            yield

    @torch.no_grad()
    def _weights(self, base: Base) -> dict[str, Tensor]:
        """W + sum of strength x dW, by layer; for a bias with ".bias" behind it.

        Summed in float32 and kept in the base's own precision, layer by layer.
        """
        found: dict[str, Tensor] = {}
        for name, module in base.layers_and_norms().items():
            layer = cast(Layer, module)
            deltas = [(one.deltas[name], s) for one, s in self.adapters if name in one.deltas]
            if deltas:
                own = layer.weight
                changes = (strength * delta.dense(own) for delta, strength in deltas)
                found[name] = sum(changes, own.float()).to(own.dtype)
            biases = [strength * delta.bias for delta, strength in deltas if delta.bias is not None]
            if biases and layer.bias is not None:
                found[f"{name}.bias"] = sum(biases, layer.bias.float()).to(layer.bias.dtype)
        return found


def read_mixed(adapters: Sequence[tuple[str, float]], base: Base) -> Mixed:
    """Load adapters' files onto the base's device; BadInput for one that does not fit it."""
    loaded = [(load_adapter(file, base=base), strength) for file, strength in adapters]
    for adapter, _ in loaded:
        check_fits(adapter, base)
    return Mixed(tuple((adapter.to(base.device), strength) for adapter, strength in loaded))
