"""Combining several changes to a weight into one, other than by their sum.

The combinations are named after peft's, and computed on the whole dW. peft's `linear`, `ties` and
`dare` work on the factors, which brings in cross terms B_i A_j, and its `svd` forms count
alpha / rank twice. PyTorch is imported inside of functions, since schedules are made without it.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    from compose.engine.weights.batched_layers import Factors

MOST_DIRECTIONS = 128  # for a style without a small rank, such as SaRA or full weights
NO_SIZE = 1e-5  # singular values below this share of the largest are rounding errors
T = TypeVar("T")


@dataclass(frozen=True)
class Truncated:
    """The best approximation of the sum by a matrix of this rank (Eckart and Young 1936)."""

    rank: int

    def __call__(self, layer: str, changes: "Sequence[Tensor]") -> "Tensor":
        import torch

        total = torch.stack(list(changes)).sum(0)
        if total.ndim < 2:  # the weight of a normalisation is a vector, which has no rank to cut
            return total
        left, sizes, right = torch.linalg.svd(total.flatten(1), full_matrices=False)
        k = self.rank
        return ((left[:, :k] * sizes[:k]) @ right[:k]).view(total.shape)

    def of_factors(self, layer: str, changes: "Sequence[Factors]") -> "Factors":
        """The same for low-rank changes in float32, at a hundredth of the cost."""
        import torch

        from compose.engine.weights.batched_layers import Factors

        k, total = self.rank, joined(changes)
        if total.up.shape[1] <= k:
            return total
        above, up = torch.linalg.qr(total.up)
        below, down = torch.linalg.qr(total.down.flatten(1).T)
        left, sizes, right = torch.linalg.svd(up @ down.T)
        narrow = (right[:k] @ below.T).view(-1, *total.down.shape[1:])
        return Factors(narrow, above @ (left[:, :k] * sizes[:k]))


@dataclass(frozen=True)
class Projected:
    """The style, and the content without its part in the style's leading directions.

    NP-LoRA (arXiv 2511.11051; its code is not published): dW = dW_s + dW_c (I - kappa V_k V_k^T),
    where V_k are the k leading right singular vectors of dW_s. kappa 1 is the paper's hard
    projection, and mu / (1 + mu) its soft one. Low-rank changes give a low-rank result.

    style: the layers that each style adapter changes; changes of the style come before those of the
    content. k: None for the rank of dW_s, up to MOST_DIRECTIONS.
    """

    style: tuple[frozenset[str], ...]
    kappa: float
    k: int | None

    def __call__(self, layer: str, changes: "Sequence[Tensor]") -> "Tensor":
        import torch

        style, content = self._split(layer, changes)
        if not style or not content or changes[0].ndim < 2:  # a vector has no directions
            return torch.stack(list(changes)).sum(0)
        kept, moved = (torch.stack(list(one)).sum(0).flatten(1) for one in (style, content))
        _, sizes, right = torch.linalg.svd(kept, full_matrices=False)
        leading = right[: self._directions(sizes)]
        moved = moved - self.kappa * (moved @ leading.T) @ leading
        return (kept + moved).view(changes[0].shape)

    def of_factors(self, layer: str, changes: "Sequence[Factors]") -> "Factors":
        """The same for low-rank changes in float32: only the content's `down` changes."""
        import torch

        from compose.engine.weights.batched_layers import Factors

        style, content = self._split(layer, changes)
        if not style or not content:
            return joined(changes)
        kept, moved = joined(style), joined(content)
        below, down = torch.linalg.qr(kept.down.flatten(1).T)
        above = torch.linalg.qr(kept.up).R
        _, sizes, right = torch.linalg.svd(above @ down.T)
        leading = right[: self._directions(sizes)] @ below.T
        flat = moved.down.flatten(1)
        flat = flat - self.kappa * (flat @ leading.T) @ leading
        return joined([kept, Factors(flat.view(moved.down.shape), moved.up)])

    def _split(self, layer: str, changes: "Sequence[T]") -> "tuple[Sequence[T], Sequence[T]]":
        """The changes of the style and those of the content."""
        count = sum(layer in layers for layers in self.style)
        return changes[:count], changes[count:]

    def _directions(self, sizes: "Tensor") -> int:
        """k, the number of the style's leading directions. sizes: its singular values."""
        rank = int((sizes > NO_SIZE * sizes[0]).sum())
        return min(rank, self.k or MOST_DIRECTIONS)


@dataclass(frozen=True)
class Ties:
    """Trim, elect a sign, average the entries of that sign (Yadav et al. 2023, arXiv 2306.01708).

    density: the share of each change's entries that is kept, the largest ones. The elected sign is
    that of the sum with strengths, so a negative strength votes against; zero counts as plus.
    """

    density: float

    def __call__(self, layer: str, changes: "Sequence[Tensor]") -> "Tensor":
        import torch

        trimmed = torch.stack([_largest(change, self.density) for change in changes])
        plus = trimmed.sum(0) >= 0
        agreeing = torch.where(plus, trimmed > 0, trimmed < 0)
        return (trimmed * agreeing).sum(0) / agreeing.sum(0).clamp_min(1)


@dataclass(frozen=True)
class Dare:
    """Drop entries at random and rescale the others, then sum (Yu et al. 2023, arXiv 2311.03099).

    density: the share of entries that is kept. seed: decides, with the layer's name, which.
    """

    density: float
    seed: int

    def __call__(self, layer: str, changes: "Sequence[Tensor]") -> "Tensor":
        import torch

        # 32 bits, because PyTorch's generator on the CPU ignores higher bits.
        seed = zlib.crc32(f"{self.seed} {layer}".encode())
        generator = torch.Generator().manual_seed(seed)
        total = torch.zeros_like(changes[0])
        for change in changes:
            # Drawn on the CPU, so that every device drops the same entries.
            drawn = torch.rand(change.shape, generator=generator).to(change.device)
            total += change * (drawn < self.density) / self.density
        return total


def _largest(change: "Tensor", density: float) -> "Tensor":
    """The change with all but its largest entries set to 0.

    Entries as large as the largest dropped one are dropped too.
    """
    sizes = change.abs()
    dropped = sizes.numel() - int(density * sizes.numel())
    if not dropped:
        return change
    # kthvalue is four times as fast as topk, which sorts.
    return change * (sizes > sizes.flatten().kthvalue(dropped).values)


def joined(changes: "Sequence[Factors]") -> "Factors":
    """The sum of low-rank changes, by concatenating their factors."""
    import torch

    from compose.engine.weights.batched_layers import Factors

    if len(changes) == 1:  # nothing is copied: a mix may have hundreds of layers
        return changes[0]
    downs, ups = [one.down for one in changes], [one.up for one in changes]
    return Factors(torch.cat(downs), torch.cat(ups, dim=1))
