"""SaRA's selective training for anybody's own loop: an optimiser over chosen entries of weights.

Beside it Studio's own loop trains the same entries through `studio.delta.Sparse`, which leaves the
base's weights alone. Here they change in place, as a loop that knows nothing of it expects: what
it evaluates and saves is the trained model.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from studio.delta import Layer, Sparse

__all__ = ["ChosenAdamW", "adaptable_layers"]


def adaptable_layers(module: nn.Module) -> dict[str, Layer]:
    """The linear and convolution layers of a module by their paths."""
    return {
        path: layer
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }


class ChosenAdamW(torch.optim.AdamW):
    """AdamW over some entries of some weights; all other entries stay as they are, bit for bit.

    Its parameters are the changes to those entries, one float32 vector for each layer: clip those
    (`optimizer.param_groups[0]["params"]`), the weights themselves never hold a gradient. As soon
    as a layer's gradient is complete its chosen entries are kept and the rest is let go.

    layers: by path. chosen: entries of the flattened weights, each once: int [n].
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
            weight.register_post_accumulate_grad_hook(partial(_keep, change, index))
            self._entries[path] = weight, index, before
            changes.append(change)
        super().__init__(changes, lr=lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore
        """AdamW's step, and the changed entries written into the weights."""
        loss = super().step(closure)
        changes = self.param_groups[0]["params"]
        for (weight, index, before), change in zip(self._entries.values(), changes, strict=True):
            flat = weight.flatten()
            flat[index.long()] = (before.float() + change).to(weight.dtype)
            weight.copy_(flat.view_as(weight))
        return loss

    def deltas(self) -> dict[str, Sparse]:
        """The changes so far as an adapter's deltas, by "unet." and the layer's path."""
        changes = self.param_groups[0]["params"]
        return {
            f"unet.{path}": Sparse(index, change.detach().clone(), tuple(weight.shape))
            for (path, (weight, index, _)), change in zip(
                self._entries.items(), changes, strict=True
            )
        }


def _keep(change: nn.Parameter, index: Tensor, weight: Tensor) -> None:
    """Move the chosen entries of a weight's gradient to its change, and drop the gradient."""
    assert weight.grad is not None
    part = weight.grad.flatten()[index.long()].to(change.dtype)
    change.grad = part if change.grad is None else change.grad + part
    weight.grad = None
