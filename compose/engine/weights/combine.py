"""Ways to make one change to a weight of several, other than their sum.

Named after peft's combinations and computed on the whole dW: peft's `linear`, `ties` and `dare`
work on the factors, which brings in cross terms B_i A_j, and its `svd` forms count alpha / rank
twice. PyTorch is imported where it computes, since a schedule is told without.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from compose.engine.weights.batched_layers import Factors


@dataclass(frozen=True)
class Truncated:
    """The best approximation of the sum that has this rank (Eckart and Young 1936)."""

    rank: int

    def __call__(self, layer: str, changes: "Sequence[Tensor]") -> "Tensor":
        import torch

        total = torch.stack(list(changes)).sum(0)
        if total.ndim < 2:  # of a normalisation: a vector has no rank to cut
            return total
        left, sizes, right = torch.linalg.svd(total.flatten(1), full_matrices=False)
        k = self.rank
        return ((left[:, :k] * sizes[:k]) @ right[:k]).view(total.shape)

    def of_factors(self, total: "Factors") -> "Factors":
        """The same of a sum in float32 whose rank is small, at a hundredth of the cost."""
        import torch

        from compose.engine.weights.batched_layers import Factors

        k = self.rank
        if total.up.shape[1] <= k:
            return total
        above, up = torch.linalg.qr(total.up)
        below, down = torch.linalg.qr(total.down.flatten(1).T)
        left, sizes, right = torch.linalg.svd(up @ down.T)
        narrow = (right[:k] @ below.T).view(-1, *total.down.shape[1:])
        return Factors(narrow, above @ (left[:, :k] * sizes[:k]))


@dataclass(frozen=True)
class Ties:
    """Trim, elect a sign, average those that have it (Yadav et al. 2023, arXiv 2306.01708).

    density: the share of each change's entries, the largest ones, that is kept. The sign is that of
    the sum, strengths included, so that a negative strength votes against; zero counts as plus.
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

    density: the share that is kept. seed: with the layer's name it decides which.
    """

    density: float
    seed: int

    def __call__(self, layer: str, changes: "Sequence[Tensor]") -> "Tensor":
        import torch

        # Of 32 bits, because PyTorch's generator on the CPU takes no notice of higher ones.
        seed = zlib.crc32(f"{self.seed} {layer}".encode())
        generator = torch.Generator().manual_seed(seed)
        total = torch.zeros_like(changes[0])
        for change in changes:
            # On the CPU, so that every device drops the same.
            drawn = torch.rand(change.shape, generator=generator).to(change.device)
            total += change * (drawn < self.density) / self.density
        return total


def _largest(change: "Tensor", density: float) -> "Tensor":
    """The change with all but its largest entries zero; none that is as large as one left out."""
    sizes = change.abs()
    dropped = sizes.numel() - int(density * sizes.numel())
    if not dropped:
        return change
    # Four times as fast as topk, which sorts.
    return change * (sizes > sizes.flatten().kthvalue(dropped).values)
