"""Weights in 8 bits: float8_e4m3fn, scaled by a power of two for each output row.

The power brings a row's largest entry near to 448, the format's largest number. Without it, weights
of 0.005, common in real models, would be off by a tenth. Dequantizing is exact.
"""

from typing import Self

import torch
from torch import Tensor

from studio.bases.quantized.widened import Widened

FORMAT = torch.float8_e4m3fn
LARGEST = torch.finfo(FORMAT).max


class FP8(Widened):
    """Dequantizes [out, ...] in FORMAT. exponents: of each row's power, int8 [out, 1, ...]."""

    exponents: Tensor

    def __init__(self, exponents: Tensor, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        self.register_buffer("exponents", exponents)

    @classmethod
    def of(cls, weight: Tensor) -> tuple[Self, Tensor]:
        """Quantize a weight: the module that dequantizes it, and the quantized weight."""
        dims = tuple(range(1, weight.ndim))
        largest = weight.float().abs().amax(dim=dims, keepdim=True)
        exponents = torch.floor(torch.log2(LARGEST / largest)).clamp(-24, 24)  # fp16 has 2^-24
        stored = (weight.float() * torch.exp2(exponents)).to(FORMAT)
        return cls((-exponents).to(torch.int8), weight.dtype), stored

    @torch.no_grad()
    def widen(self, stored: Tensor, dtype: torch.dtype) -> Tensor:
        """See `Widened.widen`."""
        return stored.to(dtype) * torch.exp2(self.exponents.to(dtype))
