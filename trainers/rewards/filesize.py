"""A reward for small or large files of pictures."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from studio.requests.validation import option
from trainers.engine.from_prompts.alignment import Alignment
from trainers.rewards._luminance import luminance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

BLOCK = 8  # pixels of JPEG's blocks
# The quantisation table for luminance of the JPEG standard (ITU-T T.81, table K.1), at quality 50.
QUANTISED = """
    16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56
    14 17 22 29 51 87 80 62  18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92
    49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99
"""


@dataclass(frozen=True)
class FileSize(Alignment):
    """Flat pictures of small files, or rich ones of large files."""

    larger: bool = option(False, "reward large files, that is detail, in place of small ones")

    def score(self, pixels: "Tensor", prompts: "Sequence[str]") -> "Tensor":
        """Minus an estimate of the bits that a pixel takes in a JPEG; plus it with `larger`.

        The estimate is the mean of log2(1 + |c| / q) over the cosine coefficients c of the
        luminance, with q from the standard's table.
        """
        import torch

        grey = 255 * luminance(pixels)
        height, width = (side - side % BLOCK for side in grey.shape[1:])
        parts = grey[:, :height, :width].unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK))
        index = torch.arange(BLOCK, device=pixels.device)
        waves = torch.cos(torch.pi / BLOCK * (index + 0.5) * index[:, None]) * (2 / BLOCK) ** 0.5
        waves[0] /= 2**0.5  # -> [frequency, pixel], orthonormal
        coefficients = torch.einsum("vp,bhpwq,uq->bhwvu", waves, parts, waves)
        table = torch.tensor([float(n) for n in QUANTISED.split()], device=pixels.device)
        bits = (1 + coefficients.abs() / table.view(BLOCK, BLOCK)).log2().flatten(-2)
        bits = bits[..., 1:].sum(-1).mean(dim=(1, 2)) / BLOCK**2  # without the mean grey
        return bits if self.larger else -bits
