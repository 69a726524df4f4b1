"""Cut an adapter to a lower rank, or to a share of its energy.

Energy is the sum of squares of a change's singular values; the best approximation of a rank keeps
the largest of them (Eckart and Young 1936). The singular values of a product come from those of its
factors' triangles (QR), so that no change is multiplied out and a file of SDXL takes seconds.
"""

from dataclasses import replace

import torch
from torch import Tensor

from studio.adapters.adapter import Adapter
from studio.adapters.delta import BiasOnly, Delta, Dense, Kron, LowRank
from studio.errors import BadInput


def resize_adapter(
    adapter: Adapter, *, rank: int | None = None, energy: float | None = None
) -> Adapter:
    """The adapter as LoRA of lower rank, with each alpha equal to its rank.

    Give either a rank or a share of the energy. rank: the most that any layer keeps. energy: the
    least share that every layer keeps, above 0 and at most 1; the ranks of layers then differ.
    LoKr, LoHa and full changes become LoRA; changes of normalisations and biases stay as they are.
    Raises BadInput for DoRA, OFT and SaRA, whose changes are not of low rank, and for T-LoRA, whose
    ranks have an order.
    """
    if (rank is None) == (energy is None):
        raise BadInput("give a rank or a share of the energy, one of them")
    if rank is not None and rank < 1:
        raise BadInput(f"rank: {rank} is below 1, the least")
    if energy is not None and not 0 < energy <= 1:
        raise BadInput(f"energy: {energy:g} is not above 0 and at most 1")
    if adapter.rank_schedule is not None:
        raise BadInput("this is T-LoRA, whose ranks fall with the noise: it can't be resized")
    deltas = {
        layer: _resized(layer, delta, rank, energy) for layer, delta in adapter.deltas.items()
    }
    low_rank = any(isinstance(delta, LowRank) for delta in deltas.values())
    kind = "lora" if low_rank and adapter.kind in ("diffusekrona", "unknown") else adapter.kind
    return replace(adapter, deltas=deltas, kind=kind, path=None, sha256="")


@torch.no_grad()
def _resized(layer: str, delta: Delta, rank: int | None, energy: float | None) -> Delta:
    if getattr(delta, "magnitude", None) is not None:
        raise BadInput(f"{layer} is DoRA, whose change depends on the base: it can't be resized")
    if isinstance(delta, BiasOnly) or (isinstance(delta, Dense) and len(delta.shape) < 2):
        return delta
    if isinstance(delta, LowRank):
        left, sizes, right = _singular(delta)
    elif isinstance(delta, Kron | Dense):
        change = delta.dense(torch.zeros(delta.shape)).flatten(1)
        left, sizes, right = torch.linalg.svd(change, full_matrices=False)
    else:
        raise BadInput(
            f"{layer} is {type(delta).__name__.lower()}, not low-rank: only LoRA, LoKr, LoHa and "
            "full changes can be resized"
        )
    kept = min(len(sizes), rank) if rank is not None else _rank_of(sizes, energy or 1)
    root = sizes[:kept].sqrt()
    up, down = left[:, :kept] * root, root[:, None] * right[:kept]
    shape = delta.shape
    return LowRank(
        down.view(kept, *shape[1:]),
        up.view(shape[0], kept, *(1 for _ in shape[2:])),
        alpha=kept,
        up_bias=None if delta.bias is None else delta.bias.detach().clone(),
    )


def _singular(delta: LowRank) -> tuple[Tensor, Tensor, Tensor]:
    """U, S and V^T of a change, with as many singular values as its rank."""
    above, up = torch.linalg.qr(delta.scale * delta.up.float().flatten(1))
    below, down = torch.linalg.qr(delta.down.float().flatten(1).T)
    left, sizes, right = torch.linalg.svd(up @ down.T)
    count = len(sizes)
    return above @ left[:, :count], sizes, right[:count] @ below.T


def _rank_of(sizes: Tensor, energy: float) -> int:
    """How many of the largest singular values are needed for this share of the energy."""
    total = sizes.double().square().cumsum(0)
    if total[-1] == 0:
        return 1
    return min(len(sizes), int((total < energy * total[-1] * (1 - 1e-9)).sum()) + 1)
