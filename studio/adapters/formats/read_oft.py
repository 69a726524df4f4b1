"""Read the rotations of the four programs that write OFT.

peft (tuners/oft/layer.py) and OneTrainer (modules/module/oft_utils.py) rotate a layer's inputs and
store the upper triangle of a skew matrix Q; kohya's sd-scripts (networks/oft.py) and LyCORIS
(modules/diag_oft.py) rotate its outputs and store a square matrix B, with Q = B - B'.
"""

from collections.abc import Mapping

from torch import Tensor

from studio.adapters.delta import Cayley, Rotation
from studio.adapters.delta.rotation import cayley, skew_of_triangle
from studio.adapters.formats.peft_config import PeftConfig


def read_rotation(own: Mapping[str, Tensor], alpha: float | None, config: PeftConfig) -> Rotation:
    """The rotation that a layer's tensors hold; `rotation_blocks` has checked their shapes."""
    if "oft_R.weight" in own:
        return _of_inputs(own, config)
    if "oft_blocks" in own:
        return _of_outputs(own, alpha)
    return Rotation.from_tensors(own)


def _of_inputs(own: Mapping[str, Tensor], config: PeftConfig) -> Rotation:
    upper = own["oft_R.weight"]
    if "oft_R.scaled_oft" in own:  # OneTrainer's "scaled OFT"
        size = skew_of_triangle(upper[:1]).shape[1]
        upper = upper / (2 * (size - 1) ** 0.5)
    return Cayley(upper, terms=config.neumann_terms, shared=config.block_share)


def _of_outputs(own: Mapping[str, Tensor], alpha: float | None) -> Rotation:
    """W' = scale R' W. alpha: limits Q's norm to alpha x outputs; None or 0 means no limit."""
    square = own["oft_blocks"].float()
    skew = square - square.transpose(1, 2)
    limit = (alpha or 0.0) * square.shape[0] * square.shape[1]
    norm = float(skew.norm())
    if 0 < limit < norm:
        skew = skew * (limit / norm)
    blocks = cayley(skew).transpose(1, 2).contiguous()
    if "rescale" in own:
        blocks = blocks * own["rescale"].float().reshape(*blocks.shape[:2], 1)
    return Rotation(blocks)
