"""The change to a layer, in six mathematical forms, and two ways to apply it.

`LowRank` (LoRA, rsLoRA, DoRA, B-LoRA), `Kron` (DiffuseKronA, LoKr), `Sparse` (SaRA), `Dense`
(other forms in downloaded files), `Rotation` (OFT) and `BiasOnly`. `LowRank`, `Kron` and `Dense`
may change the layer's bias too. `Dense` and `BiasOnly` may also change normalisations. Each form is
an `nn.Module` whose tensors are parameters, so that optimizers, EMA and `.to(device)` work as for
any module.

`attach` is for training: it adds the delta to a layer's output and leaves the weight alone.
`swap_weights` is for rendering: it replaces a layer's weight by one with the change merged in.
After either block, the base is bit for bit what it was.
"""

from studio.adapters.delta.attach import attach, detached, swap_weights
from studio.adapters.delta.dense import BiasOnly, Dense
from studio.adapters.delta.kron import Kron
from studio.adapters.delta.layer import Layer, Norm, weight_shape
from studio.adapters.delta.low_rank import LowRank
from studio.adapters.delta.rotation import Cayley, Rotation
from studio.adapters.delta.sparse import Sparse

__all__ = [
    "BiasOnly",
    "Cayley",
    "Delta",
    "Dense",
    "Kron",
    "Layer",
    "LowRank",
    "Norm",
    "Rotation",
    "Sparse",
    "attach",
    "detached",
    "swap_weights",
    "weight_shape",
]

Delta = LowRank | Kron | Sparse | Dense | Rotation | BiasOnly
