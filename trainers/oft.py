"""OFT (Qiu et al. 2023, arXiv 2306.07280), orthogonal fine-tuning: W' = W M, M rotates in blocks.

M = (I + Q)(I - Q)^-1, the Cayley transform, with Q skew-symmetric, zero at the start and made of
blocks b x b; so the rows of W keep their lengths. As in peft and OneTrainer, the inputs of a layer
are rotated; the authors' code rotates its outputs. With `terms` a truncated series replaces M; peft
by default and OneTrainer always have 5 terms. peft's benchmark of picture generation uses lr 1e-4
and b 32.

Deviations: no limit on Q (COFT) and no dropout of blocks. In a convolution the channels are
rotated, equally for every pixel under its kernel. Where 32 does not divide a layer's inputs, the
default b is the next smaller number that does. A b that is given and does not divide them is
refused.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from studio.requests.validation import option
from trainers.engine.kind import Kind, is_sketch
from trainers.lora import TARGETS, TARGETS_HELP, Targets, divisor

if TYPE_CHECKING:
    import torch
    from torch import nn

    from studio.adapters.delta import Cayley
    from studio.bases.base import Base

BLOCK = 32


@dataclass(frozen=True)
class OFT(Kind):
    """Rotations of the inputs of layers."""

    block_size: Annotated[int, Ge(2)] | None = option(
        None, f"side of the blocks; by default {BLOCK}, or the next smaller divisor of the inputs"
    )
    terms: Annotated[int, Ge(2)] | None = option(
        None, "terms of a series in place of exact rotations; 5 for files that OneTrainer reads"
    )
    targets: Targets | None = option(None, TARGETS_HELP)

    def for_base(self, base: "Base") -> "OFT":
        """This kind with targets that suit this base, where none are given."""
        return replace(self, targets=self.targets or ("all" if is_sketch(base) else "attention"))

    def delta(
        self, name: str, layer: "nn.Module", *, generator: "torch.Generator"
    ) -> "Cayley | None":
        """A delta that rotates nothing yet, for the layers that `targets` names."""
        from studio.adapters.delta import Cayley, weight_shape  # late: it imports torch

        if not TARGETS[self.targets or "attention"].fullmatch(name):
            return None
        size = self.block_size or divisor(weight_shape(layer)[1], BLOCK)
        return Cayley.start(layer, size, terms=self.terms)
