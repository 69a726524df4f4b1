"""The form of orthogonal fine-tuning (OFT, Qiu et al. 2023, arXiv 2306.07280): a rotated weight."""

import math
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from studio.adapters.delta.layer import Layer, adaptable, original_output, output_with_change
from studio.errors import BadInput


class Rotation(nn.Module):
    """dW = M W - W with M block-diagonal, so that the change depends on the weight it changes.

    blocks: the blocks of M, [k, b, b].
    of_inputs: dW = W M - W instead.  shared: one block is repeated, [1, b, b].
    M itself is stored, because each program computes M in its own way from the skew matrix that it
    trains. `Cayley` stores the skew matrix instead, where that way is known. A strength scales dW,
    so between 0 and 1 the weight is not rotated but interpolated.
    """

    bias: Tensor | None = None  # it changes no bias
    magnitude: Tensor | None = None  # and has no DoRA
    shape: tuple[int, ...] = ()  # the weight's shape is not known: M shows one side at most

    def __init__(self, blocks: Tensor, *, of_inputs: bool = False, shared: bool = False) -> None:
        super().__init__()
        self.blocks = nn.Parameter(blocks)
        self.of_inputs = of_inputs
        self.shared = shared

    @property
    def layout(self) -> tuple[int, int]:
        """How many blocks M has, 1 if they are shared, and their side: k and b."""
        return self.blocks.shape[0], self.blocks.shape[1]

    def matrices(self) -> Tensor:
        """The blocks of M: float32, [k, b, b]."""
        return self.blocks.float()

    def dense(self, weight: Tensor) -> Tensor:
        """dW at strength 1: float32, shaped as the weight it is given; differentiable."""
        blocks, own = self.matrices(), weight.float()
        size = blocks.shape[1]
        if self.of_inputs:
            parts = own.unflatten(1, (-1, size))  # -> [out, k, b(, kh, kw)]
            blocks = blocks.expand(parts.shape[1], -1, -1)
            return torch.einsum("okn...,knm->okm...", parts, blocks).reshape(weight.shape) - own
        parts = own.unflatten(0, (-1, size))  # -> [k, b, in(, kh, kw)]
        blocks = blocks.expand(len(parts), -1, -1)
        return torch.einsum("kmn,kn...->km...", blocks, parts).reshape(weight.shape) - own

    def forward(self, layer: Layer, x: Tensor) -> Tensor:
        """The layer's output with the change; W M x is the layer's own output for M x."""
        if not self.of_inputs:
            return output_with_change(layer, x, self.dense(layer.weight))
        blocks = self.matrices()
        blocks = blocks - torch.eye(blocks.shape[1], device=blocks.device)  # M - I
        side = x.ndim - 1 if isinstance(layer, nn.Linear) else 1
        parts = x.unflatten(side, (-1, blocks.shape[1]))  # -> [..., k, b(, h, w)]
        blocks = blocks.to(x.dtype).expand(parts.shape[side], -1, -1)
        sides = "" if isinstance(layer, nn.Linear) else "hw"
        change = torch.einsum(f"knm,...km{sides}->...kn{sides}", blocks, parts)
        return original_output(layer, x + change.flatten(side, side + 1).to(x.dtype))

    def tensors(self) -> dict[str, Tensor]:
        """Its tensor by its name in a file."""
        side = "in" if self.of_inputs else "out"
        return {f"rotation_{side}{'_shared' if self.shared else ''}": self.blocks.detach()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        ((name, blocks),) = tensors.items()
        return cls(blocks, of_inputs="_in" in name, shared=name.endswith("_shared"))


class Cayley(Rotation):
    """dW = W M - W with M = (I + Q)(I - Q)^-1 and Q block-diagonal and skew-symmetric, so W' = W M.

    upper: the numbers above the diagonal of each block of Q, [k, b (b - 1) / 2].
    terms: M is the truncated series that peft and OneTrainer compute from -Q, with this many terms;
    None for the exact M.
    """

    def __init__(self, upper: Tensor, *, terms: int | None = None, shared: bool = False) -> None:
        nn.Module.__init__(self)
        self.upper = nn.Parameter(upper)
        self.terms, self.shared = terms, shared
        self.of_inputs = True

    @classmethod
    def start(cls, layer: nn.Module, size: int, *, terms: int | None = None) -> Self:
        """A new delta that rotates nothing yet, float32, in blocks of this size.

        Raises BadInput where the size does not divide the layer's inputs.
        """
        weight = adaptable(layer).weight.detach()
        if weight.shape[1] % size:
            raise BadInput(f"a layer of {weight.shape[1]} inputs has no blocks of {size}")
        count = weight.shape[1] // size
        return cls(torch.zeros(count, size * (size - 1) // 2, device=weight.device), terms=terms)

    @property
    def layout(self) -> tuple[int, int]:
        """As in Rotation."""
        return self.upper.shape[0], _side(self.upper.shape[1])

    def matrices(self) -> Tensor:
        """The blocks of M: float32, [k, b, b]; differentiable."""
        with torch.autocast(self.upper.device.type, enabled=False):
            skew = skew_of_triangle(self.upper)
            if self.terms is None:
                return cayley(skew)
            return cayley_neumann(skew, self.terms).transpose(1, 2)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensor by peft's name; the rest is in the file's metadata."""
        return {"oft_R.weight": self.upper.detach()}


def _side(numbers: int) -> int:
    """The side of a square matrix that has this many numbers above its diagonal."""
    return (1 + math.isqrt(1 + 8 * numbers)) // 2


def skew_of_triangle(upper: Tensor) -> Tensor:
    """The skew-symmetric matrices with these upper triangles: [k, b (b - 1) / 2] -> [k, b, b]."""
    count, numbers = upper.shape
    size = _side(numbers)
    rows, columns = torch.triu_indices(size, size, 1, device=upper.device)
    skew = upper.new_zeros(count, size, size, dtype=torch.float32)
    skew[:, rows, columns] = upper.float()
    return skew - skew.transpose(1, 2)


def cayley(skew: Tensor) -> Tensor:
    """(I + Q)(I - Q)^-1, a rotation, of skew-symmetric matrices Q: [k, b, b], float32."""
    identity = torch.eye(skew.shape[-1], device=skew.device)
    return torch.linalg.solve(identity - skew, identity + skew, left=False)


def cayley_neumann(skew: Tensor, terms: int) -> Tensor:
    """What peft computes instead: I + 2Q + 2Q^2 + ... + Q^(terms - 1), nearly a rotation.

    With three terms the last is the cube, as in peft (tuners/oft/layer.py, _cayley_batch).
    """
    total = torch.eye(skew.shape[-1], device=skew.device).expand_as(skew)
    if terms > 1:
        total = total + 2 * skew
    if terms > 2:
        power = skew @ skew
        total = total + 2 * power
        for _ in range(3, terms - 1):
            power = power @ skew
            total = total + 2 * power
        total = total + power @ skew
    return total
