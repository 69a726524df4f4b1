"""The nuclear norm of a matrix, and its gradient, on a GPU by matrix products alone.

With A = U S V' the norm is the sum of S, and its gradient is the polar factor U V' (Watson 1992). A
GPU is slow at singular values and fast at products. So there the polar factor comes from iterating
an odd polynomial of degree five, with the coefficients of Polar Express (Amsel et al. 2025,
arXiv 2505.16932, algorithm 1), and then of the Newton-Schulz iteration for small singular values.
The share of a singular value below 1e-4 of the largest ends between 0 and 1, which still makes a
subgradient.
"""

from typing import cast

import torch
from torch import Tensor

EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
)
NEWTON_SCHULZ = ((1.875, -1.25, 0.375),) * 5
MARGIN = 1.01  # factor on the bound of the largest singular value, for rounding errors


def nuclear_norm(matrix: Tensor) -> Tensor:
    """The sum of the singular values of [m, n], a scalar with a gradient.

    On a CPU a decomposition is faster than products.
    """
    if matrix.device.type == "cpu":
        return torch.linalg.svdvals(matrix).sum()
    return by_products(matrix)


def by_products(matrix: Tensor) -> Tensor:
    """The nuclear norm by matrix products, on any device."""
    return cast(Tensor, _NuclearNorm.apply(matrix))


def polar_factor(matrix: Tensor) -> Tensor:
    """U V' of a matrix U S V', [m, n]; zeros for zeros."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    gram = tall.T @ tall
    # (sum of S^8)^(1/8) is at least the largest S, and at most 2.5 times that for 1280 of them.
    bound = (gram @ gram).norm().pow(0.25) * MARGIN
    polar = tall / bound.clamp_min(torch.finfo(matrix.dtype).tiny)
    for first, third, fifth in EXPRESS + NEWTON_SCHULZ:
        square = polar.T @ polar
        factor = third * square + fifth * (square @ square)
        factor.diagonal().add_(first)
        polar = polar @ factor
    return polar if tall is matrix else polar.T


class _NuclearNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, matrix: Tensor) -> Tensor:
        polar = polar_factor(matrix)
        ctx.save_for_backward(polar)
        return (polar * matrix).sum()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (polar,) = ctx.saved_tensors
        return grad * polar
