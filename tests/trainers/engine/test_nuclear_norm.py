"""The nuclear norm by products, against singular value decompositions in double precision."""

import pytest
import torch
from torch import Tensor

from trainers.engine.sparse.nuclear_norm import by_products, nuclear_norm, polar_factor


def sparse(rows: int, columns: int, share: float, seed: int = 0) -> Tensor:
    """What SaRA has: the smallest of random weights, zero elsewhere."""
    weights = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) / 50
    return torch.where(weights.abs() < share / 50, weights, 0)


@pytest.mark.parametrize("shape", [(80, 80), (240, 60), (60, 240)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norm_and_gradient_are_those_of_the_decomposition(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    exact = sparse(*shape, share=0.3).double().requires_grad_()
    torch.linalg.svdvals(exact).sum().backward()
    matrix = exact.detach().to(dtype).requires_grad_()
    norm = by_products(matrix)
    (3 * norm).backward()
    small = 1e-5 if dtype == torch.float32 else 1e-11
    assert norm.item() == pytest.approx(torch.linalg.svdvals(exact).sum().item(), rel=small)
    assert matrix.grad is not None and exact.grad is not None
    assert (matrix.grad.double() - 3 * exact.grad).abs().max() < small


def test_a_matrix_without_full_rank_has_a_subgradient() -> None:
    """G of a norm: <G, A> is the norm of A, and G's largest singular value is at most 1."""
    wide = sparse(96, 96, share=0.3)
    wide[:, 40:] = 0  # whole columns without an entry
    wide[10:20] = wide[:10]  # and rows that are twice there
    exact = torch.linalg.svdvals(wide.double())
    assert (exact < 1e-9).sum() >= 56
    found = polar_factor(wide)
    torch.testing.assert_close((found * wide).sum().double(), exact.sum(), rtol=1e-6, atol=0)
    assert torch.linalg.svdvals(found.double()).max() < 1 + 1e-5
    assert not found[:, 40:].any()


def test_the_smallest_values_only_lessen_the_gradient() -> None:
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(64, 64, generator=draw))[0] for _ in range(2))
    values = torch.logspace(0, -7, 64)
    matrix = left * values @ right
    share = (left.T @ polar_factor(matrix) @ right.T).diagonal()
    assert (share - 1).abs()[values > 1e-4].max() < 2e-3
    assert share.min() > -1e-3 and share.max() < 1 + 1e-3
    torch.testing.assert_close(by_products(matrix), values.sum(), rtol=3e-5, atol=0)


def test_zeros_are_no_division() -> None:
    assert not polar_factor(torch.zeros(40, 50)).any()
    assert by_products(torch.zeros(40, 50)) == 0


def test_a_cpu_decomposes() -> None:
    matrix = sparse(48, 64, share=0.5)
    assert torch.equal(nuclear_norm(matrix), torch.linalg.svdvals(matrix).sum())
