"""Weights in fp8 and NF4, computed without Studio, for what stores them to be compared with."""

import pytest
import torch
from torch import Tensor, nn

from studio.bases.base import Base

BLOCKS = ("unet.down_blocks.", "unet.mid_block.", "unet.up_blocks.")
FORMS = ["fp8", "nf4"]


def installed(form: str) -> None:
    """Skip what needs bitsandbytes, which is large and so no part of the extra `dev`."""
    if form == "nf4":
        pytest.importorskip("bitsandbytes")


def fp8_rows(weight: Tensor) -> Tensor:
    """What a weight in fp8 stands for, written out row by row."""
    rows = []
    for row in weight.detach():
        power = 2 ** int(torch.floor(torch.log2(448 / row.abs().max())))
        rows.append((row * power).to(torch.float8_e4m3fn).to(row.dtype) / power)
    return torch.stack(rows)


def nf4_layer(weight: Tensor) -> Tensor:
    """What a weight in bitsandbytes' own layer stands for."""
    from bitsandbytes.functional import dequantize_4bit  # pyright: ignore[reportMissingImports]
    from bitsandbytes.nn import Linear4bit  # pyright: ignore[reportMissingImports]

    layer = Linear4bit(*reversed(weight.shape), bias=False, quant_type="nf4", device="cpu")
    layer.load_state_dict({"weight": weight.detach()})
    packed = layer.to("cpu").weight
    assert packed.quant_state.nested
    return dequantize_4bit(packed.data, packed.quant_state)


def rounded_weights(base: Base, form: str) -> dict[str, Tensor]:
    """The weights of a base's blocks as a form rounds them; NF4 leaves convolutions alone."""
    found = {}
    for name, layer in base.layers().items():
        if name.startswith(BLOCKS) and isinstance(layer, nn.Linear | nn.Conv2d):
            if form == "fp8":
                found[name] = fp8_rows(layer.weight)
            elif isinstance(layer, nn.Linear):
                found[name] = nf4_layer(layer.weight)
    return found


def round_weights(base: Base, form: str) -> Base:
    """The same base, its weights as a form rounds them, and stored as ever."""
    base.fingerprint()
    for name, weight in rounded_weights(base, form).items():
        base.layers()[name].weight.data.copy_(weight)  # pyright: ignore
    return base
