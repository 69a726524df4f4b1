"""The luminance of pixels."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LUMA = (0.299, 0.587, 0.114)


def luminance(pixels: "Tensor") -> "Tensor":
    """[B, 3, H, W] -> [B, H, W]."""
    red, green, blue = pixels.unbind(1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
