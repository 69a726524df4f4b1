"""LoHa, and LoCon with middle tensors: changes that are multiplied out at each use.

A file of kilobytes can describe a product of gigabytes, so only the file's own tensors are kept.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from studio.adapters.delta.dense import Dense
from studio.adapters.delta.low_rank import LowRank


class ComputedLowRank(LowRank):
    """A low-rank change whose down and up are computed from other tensors, the parts.

    factors_of: computes down and up from the parts, shaped as LowRank's, in float32.
    """

    def __init__(
        self,
        parts: Sequence[Tensor],
        factors_of: Callable[..., tuple[Tensor, Tensor]],
        alpha: float,
        *,
        rank_stabilised: bool = False,
        magnitude: Tensor | None = None,
        up_bias: Tensor | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.parts = nn.ParameterList(parts)
        self._factors_of = factors_of
        self.magnitude = None if magnitude is None else nn.Parameter(magnitude)
        self.up_bias = None if up_bias is None else nn.Parameter(up_bias)
        self.alpha, self.rank_stabilised, self.dropout = alpha, rank_stabilised, 0.0
        down, up = factors_of(*(part.to("meta") for part in parts))
        if down.shape[0] != up.shape[1]:
            raise ValueError(f"down has rank {down.shape[0]}, up has rank {up.shape[1]}")
        self._rank, self._shape = down.shape[0], (up.shape[0], *down.shape[1:])

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def down(self) -> Tensor:
        return self.factors()[0]

    @property
    def up(self) -> Tensor:
        return self.factors()[1]

    def factors(self) -> tuple[Tensor, Tensor]:
        return self._factors_of(*self.parts)


class ComputedDense(Dense):
    """A full change that is computed from other tensors, the parts.

    change_of: computes the change from the parts, shaped as the weight, in float32.
    factor: multiplies the change.
    """

    def __init__(
        self,
        parts: Sequence[Tensor],
        change_of: Callable[..., Tensor],
        *,
        factor: float = 1.0,
        bias: Tensor | None = None,
        magnitude: Tensor | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.parts = nn.ParameterList(parts)
        self._change_of, self.factor = change_of, factor
        self.bias = None if bias is None else nn.Parameter(bias)
        self.magnitude = None if magnitude is None else nn.Parameter(magnitude)
        self._shape = tuple(change_of(*(part.to("meta") for part in parts)).shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def change(self) -> Tensor:
        return self._change_of(*self.parts) * self.factor


def locon_factors(mid: Tensor, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Down and up from LoCon's mid [rank, s, kh, kw], down [s, in(, 1, 1)] and up (unchanged)."""
    return torch.einsum("rskl,si->rikl", mid.float(), down.float().flatten(1)), up


def loha_factors(a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor]:
    """Down and up of LoHa's (A1 B1) * (A2 B2), a product entry by entry of two low-rank products.

    Its rank is the product of their ranks: up has the products of the columns of A1 and A2, down
    those of the rows of B1 and B2. a: [out, rank], b: [rank, in].
    """
    up = (a1.float()[:, :, None] * a2.float()[:, None, :]).flatten(1)
    return (b1.float()[:, None, :] * b2.float()[None, :, :]).flatten(0, 1), up


def loha_change(a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor, scale: float) -> Tensor:
    """scale (A1 B1) * (A2 B2)."""
    return scale * (a1.float() @ b1.float()) * (a2.float() @ b2.float())


def loha_tucker_change(
    a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor, t1: Tensor, t2: Tensor, scale: float
) -> Tensor:
    """LoHa of a convolution. a: [rank, out], b: [rank, in], t: [rank, rank, kh, kw]."""
    first, second = (
        torch.einsum("rskl,ro,si->oikl", t.float(), a.float(), b.float())
        for t, a, b in ((t1, a1, b1), (t2, a2, b2))
    )
    return scale * first * second
