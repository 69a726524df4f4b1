"""Rotations of the four programs that write OFT.

peft (tuners/oft/layer.py) and OneTrainer (modules/module/oft_utils.py) rotate a layer's inputs and
store the upper triangle of a skew matrix Q; kohya's sd-scripts (networks/oft.py) and LyCORIS
(modules/diag_oft.py) rotate its outputs and store a square matrix B, with Q = B - B'.
"""

from collections.abc import Mapping

from torch import Tensor

from studio.adapters.delta import Rotation
from studio.adapters.delta.rotation import cayley, cayley_neumann, skew_of_triangle
from studio.adapters.formats.peft_config import PeftConfig


def read_rotation(own: Mapping[str, Tensor], alpha: float | None, config: PeftConfig) -> Rotation:
    """The rotation of a layer's tensors, whose shapes rotation_blocks has checked."""
    if "oft_R.weight" in own:
        return _of_inputs(own, config)
    if "oft_blocks" in own:
        return _of_outputs(own, alpha)
    return Rotation.from_tensors(own)


def _of_inputs(own: Mapping[str, Tensor], config: PeftConfig) -> Rotation:
    """W' = W R', whose sign of Q differs between peft's series and its exact form."""
    skew = skew_of_triangle(own["oft_R.weight"])
    if "oft_R.scaled_oft" in own:  # OneTrainer's "scaled OFT"
        skew = skew / (2 * (skew.shape[1] - 1) ** 0.5)
    terms = config.neumann_terms
    rotation = cayley(-skew) if terms is None else cayley_neumann(skew, terms)
    blocks = rotation.transpose(1, 2).contiguous()
    return Rotation(blocks, of_inputs=True, shared=config.block_share)


def _of_outputs(own: Mapping[str, Tensor], alpha: float | None) -> Rotation:
    """W' = scale R' W. alpha: Q's norm is at most alpha x outputs; none or 0 means no limit."""
    given = own["oft_blocks"].float()
    skew = given - given.transpose(1, 2)
    limit = (alpha or 0.0) * given.shape[0] * given.shape[1]
    norm = float(skew.norm())
    if 0 < limit < norm:
        skew = skew * (limit / norm)
    blocks = cayley(skew).transpose(1, 2).contiguous()
    if "rescale" in own:
        blocks = blocks * own["rescale"].float().reshape(*blocks.shape[:2], 1)
    return Rotation(blocks)
