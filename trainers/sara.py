"""SaRA (Hu et al. 2024, arXiv 2409.06633): train the weights that hardly matter to the base.

Section 3.1: the mask M = |W0| < theta chooses the entries; dW is zero elsewhere. Section 3.2: the
loss lambda |P . M|_*, the nuclear norm of the trained entries of one matrix drawn at each step,
keeps the change of low rank. Section 3.3: after the first part of the training, only the entries
that are still below theta go on learning, with a fresh optimiser. Section 3.4, gradients and
optimiser state for the chosen entries alone, is `studio.adapters.delta.Sparse`. Published: theta
2e-3 (50 M entries of SD 1.5), lambda 5e-4, 5000 steps, batch 4, lr 1e-3 exp(-350 theta) with a
cosine schedule.

Deviations from the authors' code (optim/adamw.py): entries keep their signs (there they start from
their absolute values), the norm's gradient reaches the trained entries (there it is lost), files
hold the indices, and choosing entries again loses no gradient. Weight decay pulls an entry towards
the base's weight, not to zero. Biases and norms, a thousandth of the parameters, stay frozen: a
delta changes weights of layers. Text encoders, which the authors leave frozen, are trained below
the same threshold if asked for; a budget counts weights of the UNet only.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp, prod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Lt

from studio.bases.info import BaseInfo
from studio.errors import BadInput
from studio.requests.recipe import Amount, AtLeastOne, Positive
from studio.requests.validation import option
from trainers.engine.kind import Kind, check_quantize, is_sketch
from trainers.engine.text_encoders import TEXT_ALL

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from studio.adapters.delta import Layer, Sparse
    from studio.bases.base import Base
    from trainers.engine.kind import Deltas, Layers
    from trainers.engine.sparse.sparse_optimizer import SparseAdamW

# The low-rank loss leaves out matrices with a side of at most this. The authors' number is 64;
# only sketch bases have matrices of 32 to 64.
NARROWEST = 32
CHANGED = re.compile(rf"unet\..*|{TEXT_ALL}")
THRESHOLD = 2e-3
SKETCH_SHARE = 0.15  # of a sketch base's weights are trained: few of them hardly matter
EDGES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)


@dataclass(frozen=True)
class SaRA(Kind):
    """The UNet's smallest weights, in place."""

    # NF4 has only 16 values in a block, so small weights are all equal.
    too_coarse: ClassVar[frozenset[str]] = frozenset({"nf4"})

    threshold: Positive | None = option(
        None, "train only weights smaller than this; default: 0.002, more on sketch"
    )
    budget: AtLeastOne | None = option(None, "train this many of the smallest weights instead")
    rank_weight: Amount = option(5e-4, "how much the low-rank loss counts (lambda); off at 0")
    rank_of: Literal["weights", "change"] = option(
        "weights",
        "what the low-rank loss acts on: the trained weights, as in the paper, or their change",
    )
    adjust_at: Annotated[float, Ge(0), Lt(1)] = option(
        0.5, "share of the steps after which weights above the threshold stop learning; never at 0"
    )

    @property
    def _theta(self) -> float:
        return THRESHOLD if self.threshold is None else self.threshold

    def for_base(self, base: "Base") -> "SaRA":
        """This kind with a threshold: the one for the budget, or the default for this base."""
        check_quantize(self, base.quantize)
        if base.device.type == "meta":
            return self._for_unknown_weights(base)
        if self.threshold is None and self.budget is None and not is_sketch(base):
            return replace(self, threshold=THRESHOLD)
        if self.threshold is not None and self.budget is None:
            return self
        layers = _layers(base)
        budget = self.budget or int(SKETCH_SHARE * _count(layers))
        return replace(self, threshold=_threshold(layers, budget))

    def _for_unknown_weights(self, base: "Base") -> "SaRA":
        """This kind with the threshold that the budget has if weights are uniform in 0 .. 1."""
        if self.budget is None:
            raise BadInput(
                f"{base.name} is a configuration without weights, so nobody knows how many lie "
                "below a threshold: give a budget, or name a base"
            )
        return replace(self, threshold=min(1.0, self.budget / _count(_layers(base))))

    def delta(
        self, name: str, layer: "nn.Module", *, generator: "torch.Generator"
    ) -> "Sparse | None":
        """A delta that starts at zero, for the entries of a layer below the threshold."""
        from studio.adapters.delta import Sparse  # late: it imports torch

        if not CHANGED.fullmatch(name):
            return None
        index = _below(layer.weight, self._theta)  # pyright: ignore[reportArgumentType]
        return Sparse.start(layer, index) if len(index) else None

    def penalty(
        self, layers: "Layers", deltas: "Deltas", *, generator: "torch.Generator"
    ) -> "Tensor | None":
        """lambda |P . M|_* of one matrix, which is drawn at random for the step."""
        import torch

        from trainers.engine.sparse.nuclear_norm import nuclear_norm

        matrices = [name for name, delta in deltas.items() if _is_matrix(delta.shape)]
        if not self.rank_weight or not matrices:
            return None
        name = matrices[int(torch.randint(len(matrices), (), generator=generator))]
        delta: Sparse = deltas[name]  # pyright: ignore[reportAssignmentType]
        entries = delta.value.float()
        if self.rank_of == "weights":
            entries = entries + _at(layers[name], delta.index)
        if not entries.any():
            return None  # the zero matrix has no gradient
        matrix = entries.new_zeros(delta.shape[0] * delta.shape[1])
        matrix = matrix.index_add(0, delta.index, entries).view(delta.shape)
        return self.rank_weight * nuclear_norm(matrix)

    def adjust(self, layers: "Layers", deltas: "Deltas", *, done: int, steps: int) -> bool:
        """Keep training only the entries that are still below the threshold; freeze the others."""
        if not self.adjust_at or done != round(self.adjust_at * steps):
            return False
        for name, delta in deltas.items():
            sparse: Sparse = delta  # pyright: ignore[reportAssignmentType]
            weights = _at(layers[name], sparse.index) + sparse.value.detach().float()
            sparse.settle(weights.abs() < self._theta)
        return True

    def published(self, base: "Base | BaseInfo") -> dict[str, object]:
        """The paper's settings, with its learning rate for this threshold.

        The threshold of a budget is known on an opened base only; before, the rate is that of the
        usual threshold.
        """
        kind = self
        if self.budget and not isinstance(base, BaseInfo) and base.device.type != "meta":
            kind = self.for_base(base)
        return {"steps": 5000, "batch": 4, "schedule": "cosine", "lr": _rate(kind._theta)}

    def facts(self, base: "Base") -> dict[str, str]:
        """How many weights lie below each magnitude in EDGES; empty for a base without weights."""
        import torch

        if base.device.type == "meta":
            return {}
        edges = torch.tensor(EDGES, device=base.device)
        counts = sum(
            torch.bincount(
                torch.bucketize(layer.weight.float().abs().flatten(), edges, right=True),
                minlength=len(EDGES) + 1,
            )
            for layer in _layers(base)
        )
        below = counts.cumsum(0).tolist()  # pyright: ignore[reportAttributeAccessIssue]
        return {
            f"below {edge:g}": f"{number:,} ({number / below[-1]:.2%})"
            for edge, number in zip(EDGES, below, strict=False)
        }

    def optimizer(
        self, unet: "nn.Module", *, lr: float | None = None, weight_decay: float = 0.01
    ) -> "SparseAdamW":
        """AdamW for the smallest weights of any UNet, which each step changes in place.

        The UNet's other parameters are frozen. lr: default: the paper's for the threshold.
        Raises BadInput where no weight is below the threshold.
        """
        from trainers.engine.sparse.sparse_optimizer import SparseAdamW, adaptable_layers

        layers = adaptable_layers(unet)
        threshold = self._theta
        if self.budget is not None:
            threshold = _threshold([*layers.values()], self.budget)
        chosen = {name: _below(layer.weight, threshold) for name, layer in layers.items()}
        if not any(map(len, chosen.values())):
            raise BadInput(f"none of the model's weights is below {threshold:g}: raise threshold")
        unet.requires_grad_(False)
        rate = _rate(threshold) if lr is None else lr
        return SparseAdamW(layers, chosen, lr=rate, weight_decay=weight_decay)


def _rate(threshold: float) -> float:
    """The learning rate that the paper gives for a threshold."""
    return 1e-3 * exp(-350 * threshold)


def _layers(base: "Base") -> "list[Layer]":
    """The layers of the UNet whose weights a delta can change."""
    return [layer for name, layer in base.layers().items() if name.startswith("unet.")]  # pyright: ignore


def _count(layers: "Iterable[Layer]") -> int:
    """How many weights these layers have."""
    from studio.adapters.delta import weight_shape  # late: it imports torch

    return sum(prod(weight_shape(layer)) for layer in layers)


def _below(weight: "Tensor", threshold: float) -> "Tensor":
    """The ascending indices of a flattened weight's entries below the threshold: int32 [n]."""
    import torch

    if weight.device.type == "meta":  # see SaRA._for_unknown_weights
        return weight.new_empty(int(threshold * weight.numel()), dtype=torch.int32)
    return (weight.detach().float().abs().flatten() < threshold).nonzero().flatten().int()


def _at(layer: "nn.Module", index: "Tensor") -> "Tensor":
    """The layer's own weights at these entries: float32 [n]."""
    return layer.weight.detach().flatten()[index.long()].float()  # pyright: ignore


def _is_matrix(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and min(shape) > NARROWEST


def _threshold(layers: "Sequence[Layer]", budget: int) -> float:
    """The largest threshold that has at most `budget` weights below it.

    The bits of a positive float32, read as an integer, grow with the number. So the threshold is
    found exactly without sorting: count the weights by the upper 16 bits, find the upper half at
    which the budget is used up, and count the weights of that half by their lower 16 bits.
    Weights are read one layer at a time, because quantized ones are dequantized when read.
    """
    import torch

    def bits(layer: "Layer") -> "Tensor":
        return layer.weight.detach().float().abs().flatten().view(torch.int32)

    upper = sum(torch.bincount(bits(layer) >> 16, minlength=1 << 15).cpu() for layer in layers)
    below = torch.as_tensor(upper).cumsum(0)
    if budget >= int(below[-1]):
        raise BadInput(
            f"budget is {budget:,}, but the base has only {int(below[-1]):,} weights: give less, "
            "SaRA trains the smallest of them"
        )
    half = int(torch.searchsorted(below, budget, right=True))
    left = budget - (int(below[half - 1]) if half else 0)
    all_bits = (bits(layer) for layer in layers)
    lower = sum(
        torch.bincount(b[b >> 16 == half] & 0xFFFF, minlength=1 << 16).cpu() for b in all_bits
    )
    lower_half = int(torch.searchsorted(torch.as_tensor(lower).cumsum(0), left, right=True))
    if not half and not lower_half:
        zeros = int(torch.as_tensor(lower)[0])
        raise BadInput(
            f"budget is {budget:,}, but {zeros:,} of the base's weights are zero, and none of them "
            "is smaller than another: give more"
        )
    return float(torch.tensor(half << 16 | lower_half, dtype=torch.int32).view(torch.float32))
