"""SaRA for a training loop of your own: an optimizer for some entries of weights.

Studio's own loop trains the same entries through `studio.adapters.delta.Sparse`, which leaves the
base's weights alone. This optimizer changes them in place, so that a loop that knows nothing of
SaRA evaluates and saves the trained model.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from studio.adapters.delta import Layer, Sparse
from studio.errors import BadInput


def adaptable_layers(module: nn.Module) -> dict[str, Layer]:
    """The linear and convolution layers of a module, by path."""
    return {
        path: layer
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }


class SparseAdamW(torch.optim.AdamW):
    """AdamW for some entries of some weights; all other entries stay bit-identical.

    Its parameters are the changes of those entries, one float32 vector for each layer. Clip these
    (`optimizer.param_groups[0]["params"]`): the weights themselves never hold a gradient. As soon
    as a layer's gradient is complete, that of the chosen entries is kept and the rest is freed.

    To resume, open the model as it was before the training, make the same optimizer and load its
    `state_dict`. It holds the changes, and loading it writes them into the weights again.

    layers: by path. chosen: by path, indices into the flattened weight, without repetitions: int
    [n].
    """

    def __init__(
        self,
        layers: Mapping[str, Layer],
        chosen: Mapping[str, Tensor],
        *,
        lr: float,
        weight_decay: float,
    ) -> None:
        self._entries: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        changes: list[nn.Parameter] = []
        for path, index in chosen.items():
            if not len(index):
                continue
            weight = layers[path].weight.requires_grad_(True)
            before = weight.detach().flatten()[index.long()]
            change = nn.Parameter(torch.zeros_like(before, dtype=torch.float32))
            weight.register_post_accumulate_grad_hook(partial(_keep_gradient, change, index))
            self._entries[path] = weight, index, before
            changes.append(change)
        super().__init__(changes, lr=lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore
        """Take AdamW's step, and write the changed entries into the weights."""
        loss = super().step(closure)
        self._write()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """AdamW's state, and under "changes" the changes of each layer by path, float32 [n]."""
        changes = {path: change.detach() for path, change in self._changes()}
        return {**super().state_dict(), "changes": changes}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state. Raises BadInput for the state of other layers or entries."""
        changes = state_dict.get("changes", {})
        sizes = {path: len(change) for path, change in changes.items()}
        if sizes != {path: len(change) for path, change in self._changes()}:
            raise BadInput(
                "this is the state of an optimizer over other weights: open the model as it was "
                "before the training, and make the optimizer with the same threshold or budget"
            )
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "changes"})
        for path, change in self._changes():
            change.copy_(changes[path])
        self._write()

    def deltas(self) -> dict[str, Sparse]:
        """The changes so far as an adapter's deltas, by "unet." and the layer's path."""
        deltas = {}
        for path, change in self._changes():
            weight, index, _ = self._entries[path]
            deltas[f"unet.{path}"] = Sparse(index, change.detach().clone(), tuple(weight.shape))
        return deltas

    def _changes(self) -> Iterator[tuple[str, Tensor]]:
        return zip(self._entries, self.param_groups[0]["params"], strict=True)

    def _write(self) -> None:
        """Write the changed entries into the weights."""
        for path, change in self._changes():
            weight, index, before = self._entries[path]
            flat = weight.flatten()
            flat[index.long()] = (before.float() + change).to(weight.dtype)
            weight.copy_(flat.view_as(weight))


def _keep_gradient(change: nn.Parameter, index: Tensor, weight: Tensor) -> None:
    """Move the chosen entries of a weight's gradient to its change, and free the gradient."""
    assert weight.grad is not None
    part = weight.grad.flatten()[index.long()].to(change.dtype)
    change.grad = part if change.grad is None else change.grad + part
    weight.grad = None
