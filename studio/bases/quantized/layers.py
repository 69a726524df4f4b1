"""Quantize a UNet: which of its weights are stored in fewer bits, and how."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from studio.bases.quantized.fp8 import FP8
from studio.bases.quantized.nf4 import NF4
from studio.errors import BadInput

FORMS = ("none", "fp8", "nf4")
# Not the first and last layers and those of the timestep: they are small, and errors there spread.
STORED = re.compile(r"unet\.(down_blocks|mid_block|up_blocks)\..*")


def check_form(form: str) -> None:
    """Raise BadInput for a name that is not in FORMS, and where its package is not installed."""
    if form not in FORMS:
        raise BadInput(f"There is no form {form!r} to quantize to: choose {', '.join(FORMS)}.")
    if form == "nf4" and find_spec("bitsandbytes") is None:
        raise BadInput(
            "quantize: nf4 needs bitsandbytes, which is not installed: run `pip install "
            "bitsandbytes`, or choose fp8"
        )


def is_quantized(name: str, layer: nn.Module, form: str) -> bool:
    """Whether this form quantizes the layer of this name. NF4 leaves convolutions alone."""
    kinds = {"none": (), "fp8": (nn.Linear, nn.Conv2d), "nf4": nn.Linear}[form]
    return isinstance(layer, kinds) and STORED.fullmatch(name) is not None


def quantize_layers(layers: Mapping[str, nn.Module], form: str, device: torch.device) -> None:
    """Quantize the weights of these layers permanently. Each stays on its device.

    device: where they are computed, one after another.
    """
    for name, layer in layers.items():
        if not is_quantized(name, layer, form):
            continue
        own = cast(nn.Parameter, layer.weight)
        part, stored = (FP8 if form == "fp8" else NF4).of(own.detach().to(device))
        layer.weight = nn.Parameter(stored.to(own.device), requires_grad=False)
        parametrize.register_parametrization(layer, "weight", part.to(own.device), unsafe=True)
