"""The change to one weight, in four mathematical forms, and the two ways to put it on a layer.

`LowRank` (LoRA, rsLoRA, DoRA, B-LoRA), `Kron` (DiffuseKronA, LoKr), `Sparse` (SaRA) and `Dense`
(what downloaded files hold in other forms). Each is a module whose tensors are parameters, so that
optimisers, averages and moves between devices treat them like any other.

`attach` is the training path: a layer's output goes through its delta, the weight stays. `folded`
is the rendering path: weights computed beforehand stand in for the layer's own. Both are exact
inverses on exit: the base is lent, never changed.
"""

from studio.adapters.delta.attach import attach, folded, resting
from studio.adapters.delta.dense import Dense
from studio.adapters.delta.kron import Kron
from studio.adapters.delta.layer import Layer
from studio.adapters.delta.low_rank import LowRank
from studio.adapters.delta.sparse import Sparse

__all__ = ["Delta", "Dense", "Kron", "Layer", "LowRank", "Sparse", "attach", "folded", "resting"]

Delta = LowRank | Kron | Sparse | Dense
