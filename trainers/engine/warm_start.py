"""Warm start: start a training from an existing adapter.

Before the first step, the new deltas change the base exactly as that adapter does. Where the scales
agree, weights are copied. For a higher rank, another alpha or a factored LoKr they are converted,
which is exact as well: the product dW stays the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from studio.adapters.delta import Cayley, Delta, Kron, LowRank, Sparse
from studio.adapters.delta.timed import TimedLowRank
from studio.adapters.load import load_adapter
from studio.bases.base import Base
from studio.errors import BadInput
from trainers.engine.starts import StartedLowRank


@dataclass(frozen=True)
class WarmStart:
    """The adapter that a training starts from. source: its full path, as for `load_adapter`."""

    source: str
    sha256: str
    fresh: int = 0
    """number of layers that the file doesn't have, which start from zero"""
    words: tuple[str, ...] = ()
    """learned words of the file, which are not taken over"""


def start_from(source: str | Path, deltas: Mapping[str, Delta], base: Base, kind: str) -> WarmStart:
    """Copy an adapter's weights into new deltas.

    Raises BadInput where the adapter does not fit the base, and where the deltas cannot hold its
    changes.
    """
    adapter = load_adapter(source, base=base)
    assert adapter.path
    full = f"{adapter.path.resolve()}{f':{adapter.half}' if adapter.half else ''}"
    who = f"the adapter {full}"
    if extra := [layer for layer in adapter.deltas if layer not in deltas]:
        raise BadInput(
            f"{who} changes {len(extra)} layers that this {kind} does not train, such as "
            f"{extra[0]}: give its targets, give text_encoders if it has them, or name another file"
        )
    schedules = {delta.schedule for delta in deltas.values() if isinstance(delta, TimedLowRank)}
    if schedules != {adapter.rank_schedule} - {None}:
        why = "it is no tlora"
        if ranks := adapter.rank_schedule:
            options = f"rank {ranks.most}, least_rank {ranks.least}, power {ranks.power:g}"
            why = f"its ranks fall with the noise: train a tlora of {options}"
        raise BadInput(f"{who} cannot start this {kind}, since {why}")
    for layer, own in deltas.items():
        if layer in adapter.deltas:
            _copy(own, adapter.deltas[layer], f"{who} cannot start this {kind}, since at {layer}")
    fresh = len(deltas) - len(adapter.deltas)
    return WarmStart(full, adapter.sha256, fresh, tuple(adapter.embeddings))


@torch.no_grad()
def _copy(own: Delta, given: Delta, where: str) -> None:
    if isinstance(own, StartedLowRank):
        raise BadInput(f"{where} the option start says otherwise: leave start out")
    if given.bias is not None:
        raise BadInput(f"{where} it changes the layer's bias, which no training here does")
    if isinstance(own, LowRank) and isinstance(given, LowRank):
        _copy_low_rank(own, given, where)
    elif isinstance(own, Kron) and isinstance(given, Kron):
        _copy_kron(own, given, where)
    elif isinstance(own, Sparse) and isinstance(given, Sparse):
        _copy_sparse(own, given, where)
    elif isinstance(own, Cayley) and isinstance(given, Cayley):
        _copy_rotation(own, given, where)
    else:
        raise BadInput(
            f"{where} it is a {type(given).__name__} change and this trains a {type(own).__name__} "
            "one: choose the kind that it was trained with"
        )


def _copy_low_rank(own: LowRank, given: LowRank, where: str) -> None:
    if given.rank > own.rank:
        raise BadInput(f"{where} its rank is {given.rank}: give rank {given.rank} or more")
    if (given.magnitude is None) != (own.magnitude is None):
        with_or_without = "with dora: give dora" if own.magnitude is None else "without dora"
        raise BadInput(f"{where} it was trained {with_or_without}")
    if own.magnitude is not None and given.magnitude is not None:
        if given.magnitude.ndim > 1:
            raise BadInput(f"{where} its magnitude is that of inputs, not of outputs")
        own.magnitude.copy_(given.magnitude)
    # Rows beyond the adapter's rank stay random and have no effect, since `up` is zero there.
    own.down[: given.rank] = given.down.view(given.rank, *own.down.shape[1:]).to(own.down)
    up = given.up.view(own.up.shape[0], given.rank, *own.up.shape[2:]).to(own.up)
    own.up[:, : given.rank] = up if given.scale == own.scale else up * (given.scale / own.scale)


def _copy_kron(own: Kron, given: Kron, where: str) -> None:
    if given.rows_swapped or given.magnitude is not None:
        what = "its magnitude" if given.magnitude is not None else "its order of rows"
        raise BadInput(f"{where} {what} is not what this kind trains")
    if given.a.shape != own.a.shape or given.b.shape != own.b.shape:
        a1, a2 = given.a.shape
        raise BadInput(f"{where} its factor A is {a1} x {a2}: give a1 {a1} and a2 {a2} for it")
    own.a_parts[0].copy_(given.a.float())
    own.b_parts[0].copy_(given.b.float() if given.scale == 1 else given.b.float() * given.scale)


def _copy_sparse(own: Sparse, given: Sparse, where: str) -> None:
    positions = torch.searchsorted(own.index, given.index.to(own.index))  # both are sorted
    trained = own.index[positions.clamp(max=len(own.index) - 1)] == given.index.to(own.index)
    if not trained.all():
        raise BadInput(
            f"{where} it changes {int((~trained).sum())} weights that are not trained here: give "
            "the threshold or the budget that it was trained with"
        )
    own.value[positions] = given.value.to(own.value)


def _copy_rotation(own: Cayley, given: Cayley, where: str) -> None:
    if given.shared or given.terms != own.terms:
        way = f"a series of {given.terms} terms" if given.terms else "no series"
        raise BadInput(f"{where} its rotation is made by {way}: give terms for it")
    if given.upper.shape != own.upper.shape:
        size = given.layout[1]
        raise BadInput(f"{where} its blocks are {size} wide: give block_size {size}")
    own.upper.copy_(given.upper)
