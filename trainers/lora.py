"""LoRA (Hu et al. 2021, arXiv 2106.09685): dW = alpha / r * B A, B zero at the start.

With `rank_stabilised` the scale is alpha / sqrt(r) (Kalajdzievski 2023, arXiv 2312.03732), with
`dora` W' = m (W + dW) / |W + dW| per output row (Liu et al. 2024, arXiv 2402.09353). Initialised
as peft does.
"""

import re
from dataclasses import dataclass, field, replace
from math import inf, prod
from typing import TYPE_CHECKING, Literal

from studio.errors import BadInput
from trainers.engine.kind import Kind, is_sketch
from trainers.engine.text_encoders import TEXT_ALL, TEXT_ATTENTION

if TYPE_CHECKING:
    import torch
    from torch import nn

    from studio.adapters.delta import LowRank
    from studio.bases.base import Base

__all__ = ["LoRA"]

ATTENTION = r"unet\..*\.attn\d\.to_(q|k|v|out\.0)"
# Transformer blocks whole, and the convolutions of the resnets and of the resizing between them.
ALL = r"unet\..*(\.attentions\.\d+\..*|\.conv\d?|\.conv_shortcut)"
TARGETS = {
    "attention": re.compile(f"{ATTENTION}|{TEXT_ATTENTION}"),
    "all": re.compile(f"{ALL}|{TEXT_ALL}"),
}


@dataclass(frozen=True)
class LoRA(Kind):
    """Low-rank changes. Raises BadInput that names a field out of range."""

    rank: int = field(default=16, metadata={"help": "rank r of every change"})
    alpha: float | None = field(
        default=None, metadata={"help": "changes are scaled by alpha / rank; the rank if not given"}
    )
    rank_stabilised: bool = field(
        default=False, metadata={"help": "scale by alpha / sqrt(rank) instead (rsLoRA)"}
    )
    dora: bool = field(
        default=False, metadata={"help": "learn each row's length apart from its direction (DoRA)"}
    )
    dropout: float = field(
        default=0.0, metadata={"help": "share of a change's inputs dropped while training"}
    )
    targets: Literal["attention", "all"] | None = field(
        default=None,
        metadata={
            "help": "attention, or all: also feed-forward and convolutions; all on sketch only"
        },
    )

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise BadInput(f"rank is at least 1; it was given as {self.rank}")
        if self.alpha is not None and not 0 < self.alpha < inf:
            raise BadInput(f"alpha is above zero; it was given as {self.alpha:g}")
        if not 0 <= self.dropout < 1:
            raise BadInput(f"dropout lies between 0 and 1; it was given as {self.dropout}")
        if self.targets not in (None, *TARGETS):
            raise BadInput(f"targets is attention or all; it was given as {self.targets!r}")

    def for_base(self, base: "Base") -> "LoRA":
        """With the targets that suit this base, where none are given.

        Raises BadInput for a rank that none of its layers can have.
        """
        chosen = self.targets or ("all" if is_sketch(base) else "attention")
        layers = base.layers().items()
        ranks = [_full_rank(layer) for name, layer in layers if TARGETS[chosen].fullmatch(name)]
        widest = max(ranks, default=self.rank)
        if self.rank > widest:
            raise BadInput(
                f"rank is {self.rank}, and no change of a layer of {base.name} has a rank above "
                f"{widest}: give less"
            )
        return replace(self, targets=chosen)

    def delta(
        self, name: str, layer: "nn.Module", *, generator: "torch.Generator"
    ) -> "LowRank | None":
        """A change that is nothing yet, for the layers that the targets name."""
        from studio.adapters.delta import (
            LowRank,  # torch is slow to import; forms need the fields only
        )

        if not TARGETS[self.targets or "attention"].fullmatch(name):
            return None
        return LowRank.start(
            layer,
            self.rank,
            alpha=float(self.rank if self.alpha is None else self.alpha),
            rank_stabilised=self.rank_stabilised,
            dora=self.dora,
            dropout=self.dropout,
            generator=generator,
        )


def _full_rank(layer: "nn.Module") -> int:
    """The highest rank that a change of this layer can have."""
    shape: tuple[int, ...] = layer.weight.shape  # pyright: ignore[reportAssignmentType]
    return min(shape[0], prod(shape[1:]))
