"""DiffuseKronA (Marjit et al. 2024, arXiv 2402.17412): dW = A (x) B, the Kronecker product.

A is a1 x a2, B is (out / a1) x (in / a2); A ~ N(0, 1 / a1^2) and B is zero at the start. The
product is never formed in training (section 3.2; defaults are from the authors' repository,
diffusekrona/krona.py). By default it changes the q, k, v and out projections of attention: in the
authors' ablation, feed-forward layers and text encoders did not improve the results.

Deviations: their layer computes the product with its rows in another order; ours is the exact
product, as in LyCORIS's LoKr. a2 is 4, which gives the published 3.8 million parameters on SDXL;
their scripts have 8. Where 64 does not divide a layer's outputs, the default a1 is the next smaller
number that does. An a1 that is given and does not divide them is refused.
"""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from studio.requests.recipe import AtLeastOne
from studio.requests.validation import option
from trainers.engine.kind import Kind, is_sketch
from trainers.lora import TARGETS, TARGETS_HELP, Targets, divisor

if TYPE_CHECKING:
    import torch
    from torch import nn

    from studio.adapters.delta import Kron
    from studio.bases.base import Base
    from studio.bases.info import BaseInfo

PROJECTION = re.compile(
    r"unet\..*\.attn\d\.to_(q|k|v|out)(\.0)?|text_encoder.*\.self_attn\.(q|k|v|out)_proj"
)
A1, A2 = 64, 4
SKETCH = 4  # a1 and a2 on sketch bases, whose layers are narrow


@dataclass(frozen=True)
class DiffuseKronA(Kind):
    """Kronecker products on the attention."""

    a1: AtLeastOne | None = option(
        None, f"rows of the factor A; default: {A1}, or the next smaller divisor of the outputs"
    )
    a2: AtLeastOne | None = option(
        None, f"columns of the factor A; default: {A2}, or the next smaller divisor of the inputs"
    )
    q_a1: AtLeastOne | None = option(None, "rows of A for queries; default: a1")
    q_a2: AtLeastOne | None = option(None, "columns of A for queries; default: a2")
    k_a1: AtLeastOne | None = option(None, "rows of A for keys; default: a1")
    k_a2: AtLeastOne | None = option(None, "columns of A for keys; default: a2")
    v_a1: AtLeastOne | None = option(None, "rows of A for values; default: a1")
    v_a2: AtLeastOne | None = option(None, "columns of A for values; default: a2")
    out_a1: AtLeastOne | None = option(None, "rows of A for the output projection; default: a1")
    out_a2: AtLeastOne | None = option(None, "columns of A for the output projection; default: a2")
    targets: Targets | None = option(None, TARGETS_HELP)

    def for_base(self, base: "Base") -> "DiffuseKronA":
        """This kind with targets and factors that suit this base, where none are given."""
        if not is_sketch(base):
            return replace(self, targets=self.targets or "attention")
        a1, a2 = self.a1 or SKETCH, self.a2 or SKETCH
        return replace(self, targets=self.targets or "all", a1=a1, a2=a2)

    def delta(
        self, name: str, layer: "nn.Module", *, generator: "torch.Generator"
    ) -> "Kron | None":
        """A delta that starts at zero, for the layers that `targets` names."""
        from studio.adapters.delta import Kron, weight_shape  # late: it imports torch

        if not TARGETS[self.targets or "attention"].fullmatch(name):
            return None
        out, inner = weight_shape(layer)[:2]
        a1, a2 = self._factors(name)
        return Kron.start(
            layer, a1 or divisor(out, A1), a2 or divisor(inner, A2), generator=generator
        )

    def _factors(self, name: str) -> tuple[int | None, int | None]:
        """Rows and columns of A that the options give for this layer; None where they don't."""
        match = PROJECTION.fullmatch(name)
        if match is None:
            return self.a1, self.a2
        part = match[1] or match[3]  # q, k, v or out
        return getattr(self, f"{part}_a1") or self.a1, getattr(self, f"{part}_a2") or self.a2

    def published(self, base: "Base | BaseInfo") -> dict[str, object]:
        """The settings of the authors' scripts."""
        steps = 1000 if base.family == "sdxl" else 500
        return {"steps": steps, "lr": 1e-3, "accumulation": 4}
