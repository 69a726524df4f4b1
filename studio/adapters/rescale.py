"""Build a strength into an adapter's own numbers."""

import copy
from dataclasses import replace
from math import isfinite

import torch

from studio.adapters.adapter import Adapter
from studio.adapters.delta import BiasOnly, Cayley, Delta, Dense, Kron, LowRank, Rotation, Sparse
from studio.adapters.delta.computed import ComputedDense
from studio.errors import BadInput


def scale_adapter(adapter: Adapter, strength: float) -> Adapter:
    """A copy that changes at strength 1 what this adapter changes at `strength`.

    Learned words stay as they are, since no strength changes them. Raises BadInput for DoRA, whose
    rows have the learned length at strength 1 only.
    """
    if not isfinite(strength):
        raise BadInput(f"a strength is a finite number, not {strength}")
    if strength == 1:
        return adapter
    deltas = {layer: _scaled(delta, strength) for layer, delta in adapter.deltas.items()}
    return replace(adapter, deltas=deltas, path=None, sha256="")


def _scaled(delta: Delta, strength: float) -> Delta:
    if getattr(delta, "magnitude", None) is not None:
        raise BadInput(
            "DoRA learns the length of each row, which a strength does not scale: keep it at "
            "strength 1, and choose the strength where it is mixed"
        )
    scaled = copy.deepcopy(delta)
    if isinstance(scaled, Cayley):  # a scaled rotation is none: only plain matrices can hold it
        scaled = Rotation(scaled.matrices().detach(), of_inputs=True, shared=scaled.shared)
    with torch.no_grad():
        match scaled:
            case LowRank():
                scaled.alpha *= strength  # scales its bias too
            case Kron():
                scaled.scale *= strength
            case Sparse():
                scaled.value.mul_(strength)
                scaled.settled_value.mul_(strength)
            case ComputedDense():
                scaled.factor *= strength
            case Dense():
                scaled.change.mul_(strength)
            case Rotation():
                identity = torch.eye(scaled.blocks.shape[1], device=scaled.blocks.device)
                scaled.blocks.copy_(identity + strength * (scaled.blocks - identity))
            case BiasOnly():
                pass
        if isinstance(scaled, Kron | Dense | BiasOnly) and scaled.bias is not None:
            scaled.bias.mul_(strength)
    return scaled
