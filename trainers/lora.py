"""LoRA (Hu et al. 2021, arXiv 2106.09685): dW = alpha / r * B A, B zero at the start.

With `rank_stabilised` the scale is alpha / sqrt(r) (Kalajdzievski 2023, arXiv 2312.03732). With
`dora` W' = m (W + dW) / |W + dW| per output row (Liu et al. 2024, arXiv 2402.09353). Factors are
initialised as in peft, or as `start` says (trainers/engine/starts.py).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Lt

from studio.errors import BadInput
from studio.requests.recipe import AtLeastOne, Positive
from studio.requests.validation import option
from trainers.engine.kind import Kind, is_sketch
from trainers.engine.text_encoders import TEXT_ALL, TEXT_ATTENTION

if TYPE_CHECKING:
    import torch
    from torch import nn

    from studio.adapters.delta import LowRank
    from studio.bases.base import Base
    from trainers.engine.kind import Deltas, Layers

ATTENTION = r"unet\..*\.attn\d\.to_(q|k|v|out\.0)"
# All layers of transformer blocks, and the convolutions of resnets, downsamplers and upsamplers.
ALL = r"unet\..*(\.attentions\.\d+\..*|\.conv\d?|\.conv_shortcut)"
TARGETS = {
    "attention": re.compile(f"{ATTENTION}|{TEXT_ATTENTION}"),
    "all": re.compile(f"{ALL}|{TEXT_ALL}"),
}
Targets = Literal["attention", "all"]
Start = Literal[
    "kaiming", "gaussian", "pissa", "olora", "eva", "mica", "svfit", "loldu", "mosl", "miss"
]
TARGETS_HELP = "layers to change: attention, or all; default: attention, all on sketch"


@dataclass(frozen=True)
class LoRA(Kind):
    """Low-rank changes."""

    rank: AtLeastOne = option(16, "rank of each change: how much it can hold")
    alpha: Positive | None = option(None, "changes are scaled by alpha / rank; default: the rank")
    rank_stabilised: bool = option(False, "scale by alpha / sqrt(rank) instead (rsLoRA)")
    dora: bool = option(
        False, "DoRA: learn the length of each row of a weight separately from its direction"
    )
    dropout: Annotated[float, Ge(0), Lt(1)] = option(
        0.0, "share of the inputs that each training step leaves out"
    )
    targets: Targets | None = option(None, TARGETS_HELP)
    start: Start = option(
        "kaiming", "how the factors are initialised and which are frozen, see docs/training.md"
    )

    def for_base(self, base: "Base") -> "LoRA":
        """This kind with targets that suit this base, where none are given.

        Raises BadInput for a rank that no layer of the base can have.
        """
        targets = self.targets or ("all" if is_sketch(base) else "attention")
        layers = base.layers().items()
        ranks = [_full_rank(layer) for name, layer in layers if TARGETS[targets].fullmatch(name)]
        widest = max(ranks, default=self.rank)
        if self.rank > widest:
            raise BadInput(
                f"rank is {self.rank}, but no layer of {base.name} can have a rank above {widest}: "
                "give less"
            )
        return replace(self, targets=targets)

    def delta(
        self, name: str, layer: "nn.Module", *, generator: "torch.Generator"
    ) -> "LowRank | None":
        """A delta that starts at zero, for the layers that `targets` names."""
        from trainers.engine.starts import start_low_rank  # late: it imports torch

        if not TARGETS[self.targets or "attention"].fullmatch(name):
            return None
        return start_low_rank(self, name, layer, generator=generator)

    def begin(self, layers: "Layers", deltas: "Deltas", passes: "Iterator[None]") -> None:
        """For the start eva, fit the factors to the layers' inputs."""
        if self.start == "eva":
            from trainers.engine.starts import fit_to_inputs

            fit_to_inputs(layers, deltas, passes)


def _full_rank(layer: "nn.Module") -> int:
    """The highest rank that a change of this layer can have."""
    from studio.adapters.delta import weight_shape  # late: it imports torch

    shape = weight_shape(layer)
    return min(shape[0], prod(shape[1:]))


def divisor(number: int, most: int) -> int:
    """The greatest divisor of a number that is at most `most`."""
    return next(d for d in range(most, 0, -1) if number % d == 0)
