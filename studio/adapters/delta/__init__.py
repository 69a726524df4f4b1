"""The change to one weight, in four mathematical forms, and two ways to apply it to a layer.

`LowRank` (LoRA, rsLoRA, DoRA, B-LoRA), `Kron` (DiffuseKronA, LoKr), `Sparse` (SaRA) and `Dense`
(other forms in downloaded files). Each is an `nn.Module` whose tensors are parameters, so that
optimizers, EMA and `.to(device)` work as for any module.

`attach` is for training: it adds the delta to a layer's output and leaves the weight alone.
`swap_weights` is for rendering: it replaces a layer's weight by one with the change merged in.
After either block, the base is bit for bit what it was.
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
