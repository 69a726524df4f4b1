"""Weights in 4 bits: NormalFloat with double quantization, as in bitsandbytes.

Dettmers et al. 2023 (QLoRA, arXiv 2305.14314), section 3: 64 neighbouring weights share a factor
that brings the largest of them to 1. Each is rounded to the nearest of 16 numbers, the quantiles of
a normal distribution. The factors are quantized too, to 8 bits; 256 of them share a second factor.
That makes 4.13 bits for each weight.
"""

from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from studio.bases.quantized.widened import Widened

if TYPE_CHECKING:
    from bitsandbytes.functional import QuantState  # pyright: ignore[reportMissingImports]


class NF4(Widened):
    """Dequantizes weights that bitsandbytes packed two to a byte, uint8 [weights / 2, 1].

    factors: quantized factors of the blocks of 64 weights, uint8 [weights / 64]. A factor is
    levels[k] * scale + offset: `levels` [256], and `scales` [weights / 64 / 256], one for 256
    factors.
    """

    factors: Tensor
    levels: Tensor
    scales: Tensor
    offset: Tensor

    def __init__(self, state: "QuantState") -> None:
        super().__init__(state.dtype)
        self.shape, self.block = state.shape, state.blocksize
        self.scale_block = state.state2.blocksize
        self.register_buffer("factors", state.absmax)
        self.register_buffer("levels", state.state2.code)
        self.register_buffer("scales", state.state2.absmax)
        self.register_buffer("offset", state.offset)

    @classmethod
    def of(cls, weight: Tensor) -> tuple[Self, Tensor]:
        """Quantize a weight: the module that dequantizes it, and the quantized weight."""
        from bitsandbytes.functional import (  # pyright: ignore[reportMissingImports]
            quantize_4bit,
        )

        stored, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        return cls(state), stored

    @torch.no_grad()
    def widen(self, stored: Tensor, dtype: torch.dtype) -> Tensor:
        """See `Widened.widen`."""
        from bitsandbytes.functional import (  # pyright: ignore[reportMissingImports]
            QuantState,
            dequantize_4bit,
        )

        scales = QuantState(
            self.scales, code=self.levels, blocksize=self.scale_block, dtype=torch.float32
        )
        state = QuantState(
            self.factors,
            shape=self.shape,
            blocksize=self.block,
            quant_type="nf4",
            dtype=dtype,
            offset=self.offset,
            state2=scales,
        )
        return dequantize_4bit(stored, state)
