"""The nuclear norm of a matrix, and its gradient, by products alone.

With A = U S V' the norm is the sum of S and its gradient the polar factor U V' (Watson 1992). A
GPU is slow at singular values, and fast at products: there the polar factor is found by an odd
polynomial of A, iterated: of degree five, with the coefficients of Polar Express (Amsel et al.
2025, arXiv 2505.16932, algorithm 1), whose last ones, of the Newton-Schulz iteration,
go on for what is smaller. Where a singular value is below 1e-4 of the largest, its share of the
gradient lies between 0 and 1, which is a subgradient all the same.
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
MARGIN = 1.01  # over the bound of the largest singular value, for rounding


def nuclear_norm(matrix: Tensor) -> Tensor:
    """The sum of the singular values of [m, n], a scalar with a gradient.

    On a CPU the decomposition is the faster way.
    """
    if matrix.device.type == "cpu":
        return torch.linalg.svdvals(matrix).sum()
    return by_products(matrix)


def by_products(matrix: Tensor) -> Tensor:
    """The same on any device by matrix products."""
    return cast(Tensor, _NuclearNorm.apply(matrix))


def polar_factor(matrix: Tensor) -> Tensor:
    """U V' of U S V' = matrix, [m, n]; zeros for zeros."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    gram = tall.T @ tall
    # (sum of S^8)^(1/8) is at least the largest, and at most 2.5 times as much for 1280 of them.
    bound = (gram @ gram).norm().pow(0.25) * MARGIN
    found = tall / bound.clamp_min(torch.finfo(matrix.dtype).tiny)
    for first, third, fifth in EXPRESS + NEWTON_SCHULZ:
        square = found.T @ found
        factor = third * square + fifth * (square @ square)
        factor.diagonal().add_(first)
        found = found @ factor
    return found if tall is matrix else found.T


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
