"""The change to one weight, in four mathematical forms, and the two ways to put it on a layer.

`LowRank` (LoRA, rsLoRA, DoRA, B-LoRA), `Kron` (DiffuseKronA, LoKr), `Sparse` (SaRA) and `Dense`
(what downloaded files hold in other forms). Each is a module whose tensors are parameters, so that
optimisers, averages and moves between devices treat them like any other.

`attach` is the training path: a layer's output goes through its delta, the weight stays.
`swap_weights` is the rendering path: weights computed beforehand replace the layer's own. When
either block is left, the base is bit for bit what it was.
"""

from studio.adapters.delta.attach import attach, detached, swap_weights
from studio.adapters.delta.dense import Dense
from studio.adapters.delta.kron import Kron
from studio.adapters.delta.layer import Layer
from studio.adapters.delta.low_rank import LowRank
from studio.adapters.delta.sparse import Sparse

__all__ = [
    "Delta",
    "Dense",
    "Kron",
    "Layer",
    "LowRank",
    "Sparse",
    "attach",
    "detached",
    "swap_weights",
]

Delta = LowRank | Kron | Sparse | Dense
