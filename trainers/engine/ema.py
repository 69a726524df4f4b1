"""EMA weights: the running average of an adapter over its training, which often draws better.

It is an exponential moving average whose decay rises from 0 to the recipe's, as in diffusers'
EMAModel: after step n (from 0) it is min(decay, (1 + n) / (10 + n)), and 0 after the first.
Training goes on with the weights themselves; the average is what is saved and drawn with. Neither
that class nor PyTorch's AveragedModel could average SaRA's settled entries, which are buffers and
change their size.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from studio.adapters.delta import Sparse
from studio.adapters.token_embeddings import Embeddings
from trainers.engine.text_encoders import TOKEN

if TYPE_CHECKING:
    from studio.adapters.delta import Delta


class EMA:
    """The running average of trained modules, held in copies of them.

    decay: the share of the average that a step keeps, below 1.
    """

    def __init__(self, trained: Mapping[str, nn.Module], decay: float) -> None:
        self.trained, self.decay = trained, decay
        self.modules = {name: copy.deepcopy(module) for name, module in trained.items()}
        for module in self.modules.values():
            module.requires_grad_(False)

    def deltas(self, trained: "dict[str, Delta]") -> "dict[str, Delta]":
        """The averages of the trained deltas, by layer."""
        return {layer: self.modules[layer] for layer in trained}  # pyright: ignore[reportReturnType]

    def embeddings(self, trained: Embeddings) -> dict[str, dict[str, Tensor]]:
        """The averages of the trained embeddings, by token and text encoder."""
        own = {token: self.modules[f"{TOKEN}{token}"].state_dict() for token in trained}
        return {token: dict(rows) for token, rows in own.items()}

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Add the weights after `done` steps to the average."""
        decay = min(self.decay, done / (9 + done)) if done > 1 else 0.0
        for name, module in self.modules.items():
            own, new = _tensors(module), _tensors(self.trained[name])
            torch._foreach_lerp_(own, new, weight=1 - decay)

    @torch.no_grad()
    def realign(self) -> None:
        """Follow a kind that has changed what it trains; see `Kind.adjust`.

        SaRA settles some entries: the average splits its entries in the same way, and still moves
        towards the settled values. B-LoRA resets factors to zero: they become zero in the average.
        """
        for name, module in self.modules.items():
            trained = self.trained[name]
            if isinstance(module, Sparse) and isinstance(trained, Sparse):
                _realign(module, trained)
                continue
            for own, new in zip(module.parameters(), trained.parameters(), strict=True):
                if not new.any():
                    own.zero_()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block, the trained modules hold the average; afterwards their own weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, module in self.modules.items():
            for own, other in zip(_tensors(module), _tensors(self.trained[name]), strict=True):
                own.data, other.data = other.data, own.data


def _tensors(module: nn.Module) -> list[Tensor]:
    """The tensors of a module that training changes, or has changed (SaRA's settled entries)."""
    settled = [module.settled_value] if isinstance(module, Sparse) else []
    return [*module.parameters(), *settled]


def _realign(average: Sparse, trained: Sparse) -> None:
    index = torch.cat([average.settled_index, average.index])
    value = torch.cat([average.settled_value, average.value.data])
    order = index.argsort()
    index, value = index[order], value[order]

    def at(wanted: Tensor) -> Tensor:
        return value[torch.searchsorted(index, wanted)]

    average.settled_index, average.index = trained.settled_index.clone(), trained.index.clone()
    average.settled_value = at(trained.settled_index)
    average.value.data = at(trained.index)
