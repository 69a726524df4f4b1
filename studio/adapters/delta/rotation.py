"""The form of orthogonal fine-tuning (OFT, Qiu et al. 2023, arXiv 2306.07280): a rotated weight."""

import math
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from studio.adapters.delta.layer import Layer, output_with_change


class Rotation(nn.Module):
    """dW = M W - W with M block-diagonal, so that the change depends on the weight it changes.

    blocks: of M, [k, b, b].
    of_inputs: dW = W M - W instead.  shared: one block stands for all, [1, b, b].
    M is stored, not the skew matrix that it was trained as, since every program makes another M of
    that. A strength scales dW, so between 0 and 1 the weight is not rotated but interpolated.
    """

    bias: Tensor | None = None  # it changes no bias
    magnitude: Tensor | None = None  # and knows no DoRA
    shape: tuple[int, ...] = ()  # of the weight: one side of it is not known

    def __init__(self, blocks: Tensor, *, of_inputs: bool = False, shared: bool = False) -> None:
        super().__init__()
        self.blocks = nn.Parameter(blocks)
        self.of_inputs = of_inputs
        self.shared = shared

    def dense(self, weight: Tensor) -> Tensor:
        """dW at strength 1: float32, shaped as the weight it is given; differentiable."""
        size = self.blocks.shape[1]
        blocks, own = self.blocks.float(), weight.float()
        if self.of_inputs:
            parts = own.unflatten(1, (-1, size))  # -> [out, k, b(, kh, kw)]
            blocks = blocks.expand(parts.shape[1], -1, -1)
            return torch.einsum("okn...,knm->okm...", parts, blocks).reshape(weight.shape) - own
        parts = own.unflatten(0, (-1, size))  # -> [k, b, in(, kh, kw)]
        blocks = blocks.expand(len(parts), -1, -1)
        return torch.einsum("kmn,kn...->km...", blocks, parts).reshape(weight.shape) - own

    def forward(self, layer: Layer, x: Tensor) -> Tensor:
        """The layer's output with the change."""
        return output_with_change(layer, x, self.dense(layer.weight))

    def tensors(self) -> dict[str, Tensor]:
        """Its tensor by its name on disk."""
        side = "in" if self.of_inputs else "out"
        return {f"rotation_{side}{'_shared' if self.shared else ''}": self.blocks.detach()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        ((name, blocks),) = tensors.items()
        return cls(blocks, of_inputs="_in" in name, shared=name.endswith("_shared"))


def skew_of_triangle(upper: Tensor) -> Tensor:
    """The skew-symmetric matrices with these upper triangles: [k, b (b - 1) / 2] -> [k, b, b]."""
    count, numbers = upper.shape
    size = (1 + math.isqrt(1 + 8 * numbers)) // 2
    rows, columns = torch.triu_indices(size, size, 1)
    skew = upper.new_zeros(count, size, size, dtype=torch.float32)
    skew[:, rows, columns] = upper.float()
    return skew - skew.transpose(1, 2)


def cayley(skew: Tensor) -> Tensor:
    """(I + Q)(I - Q)^-1, a rotation, of skew-symmetric matrices Q: [k, b, b], float32."""
    one = torch.eye(skew.shape[-1])
    return torch.linalg.solve(one - skew, one + skew, left=False)


def cayley_neumann(skew: Tensor, terms: int) -> Tensor:
    """What peft computes instead: I + 2Q + 2Q^2 + ... + Q^(terms - 1), nearly a rotation.

    For three terms it has the cube as last, as peft (tuners/oft/layer.py, _cayley_batch).
    """
    total = torch.eye(skew.shape[-1]).expand_as(skew).clone()
    if terms > 1:
        total += 2 * skew
    if terms > 2:
        power = skew @ skew
        total += 2 * power
        for _ in range(3, terms - 1):
            power = power @ skew
            total += 2 * power
        total += power @ skew
    return total
