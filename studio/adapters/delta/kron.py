"""The form of DiffuseKronA and LoKr: the Kronecker product of two small matrices."""

from collections.abc import Mapping
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studio.adapters.delta.layer import (
    Layer,
    adaptable,
    add_bias,
    apply_weight,
    dora_change,
    magnitude_tensors,
    original_output,
    output_with_change,
    read_magnitude,
    to_input_dtype,
)
from studio.errors import BadInput

# A factor of the Kronecker product: one matrix; two matrices that are multiplied; or LoKr's middle
# tensor [rank, rank, kh, kw] and a matrix [rank, n] for each of its first two dimensions.
Factor = Tensor | tuple[Tensor, ...]


class Kron(nn.Module):
    """dW = scale * kron(a, b): entry (i * b1 + p, j * b2 + q) is a[i, j] * b[p, q].

    a: [a1, a2].  b: [b1, b2], or [b1, b2, kh, kw] for a convolution.  out = a1 b1, in = a2 b2.
    A factor may itself be a product of two matrices (LoKr with a rank): [n, rank] and
    [rank, m(, kh, kw)].
    rows_swapped: the row is p * a1 + i instead, as in the code of DiffuseKronA's authors
    (krona.py, KronALinearLayer.forward).
    magnitude: as in LowRank.  bias: a change of the layer's bias, [out], which scale doesn't touch.
    """

    def __init__(
        self,
        a: Factor,
        b: Factor,
        *,
        scale: float = 1.0,
        magnitude: Tensor | None = None,
        rows_swapped: bool = False,
        bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.a_parts = nn.ParameterList(a if isinstance(a, tuple) else (a,))
        self.b_parts = nn.ParameterList(b if isinstance(b, tuple) else (b,))
        self.magnitude = None if magnitude is None else nn.Parameter(magnitude)
        self.scale = scale
        self.rows_swapped = rows_swapped
        self.bias = None if bias is None else nn.Parameter(bias)

    @classmethod
    def start(
        cls, layer: nn.Module, a1: int, a2: int, *, generator: torch.Generator | None = None
    ) -> Self:
        """A new delta that changes nothing yet: a ~ N(0, 1 / a1^2), b zero, as in DiffuseKronA.

        float32. Raises BadInput where a1 does not divide the layer's outputs or a2 its inputs.
        """
        weight = adaptable(layer).weight.detach()
        out, inner = weight.shape[:2]
        if out % a1 or inner % a2:
            raise BadInput(
                f"a layer of {out} outputs and {inner} inputs has no factor of {a1} x {a2}: "
                "a1 must divide the outputs and a2 the inputs"
            )
        a = torch.empty(a1, a2).normal_(std=1 / a1, generator=generator)
        b = torch.zeros(out // a1, inner // a2, *weight.shape[2:])
        return cls(a.to(weight.device), b.to(weight.device))

    @property
    def a(self) -> Tensor:
        """The left factor: [a1, a2]."""
        return _product(self.a_parts)

    @property
    def b(self) -> Tensor:
        """The right factor: [b1, b2(, kh, kw)]."""
        return _product(self.b_parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight it changes."""
        left, right = _product_shape(self.a_parts), _product_shape(self.b_parts)
        return (left[0] * right[0], left[1] * right[1], *right[2:])

    def dense(self, weight: Tensor) -> Tensor:
        """dW at strength 1: float32, shaped as the weight it is given; differentiable."""
        order = "ij,pq...->pijq..." if self.rows_swapped else "ij,pq...->ipjq..."
        product = self.scale * torch.einsum(order, self.a.float(), self.b.float())
        return dora_change(weight, product.reshape(weight.shape), self.magnitude)

    def forward(self, layer: Layer, x: Tensor) -> Tensor:
        """The layer's output with the change. Only DoRA computes the Kronecker product."""
        return add_bias(layer, self._output(layer, x), self.bias)

    def _output(self, layer: Layer, x: Tensor) -> Tensor:
        if self.magnitude is not None:
            return output_with_change(layer, x, self.dense(layer.weight))
        base = original_output(layer, x)
        a, b = (to_input_dtype(factor, x) for factor in (self.a, self.b))
        if isinstance(layer, nn.Linear):
            right = F.linear(x.unflatten(-1, (a.shape[1], -1)), b.flatten(1))
            product = F.linear(right.transpose(-1, -2), a)  # -> [..., b1, a1]
            if not self.rows_swapped:
                product = product.transpose(-1, -2)
            product = product.flatten(-2)
        else:
            images = x.unflatten(1, (a.shape[1], -1)).flatten(0, 1)
            right = apply_weight(layer, images, b).unflatten(
                0, (len(x), -1)
            )  # -> [B, a2, b1, H, W]
            order = "ij,njphw->npihw" if self.rows_swapped else "ij,njphw->niphw"
            product = torch.einsum(order, a, right).flatten(1, 2)
        return torch.add(base, product.to(base.dtype), alpha=self.scale)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by their names in a file, with the scale multiplied into b."""
        b = list(self.b_parts) if len(self.b_parts) < 3 else [self.b]
        if self.scale != 1:
            b[0] = b[0].float() * self.scale
        named = _parts("lokr_w1", self.a_parts) | _parts("lokr_w2", b)
        if self.rows_swapped:
            named["lokr_rows_swapped"] = torch.ones(1, dtype=torch.uint8)
        named |= magnitude_tensors(self.magnitude, len(self.shape))
        if self.bias is not None:
            named["diff_b"] = self.bias
        return {name: tensor.detach() for name, tensor in named.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], *, scale: float = 1.0) -> Self:
        """The inverse of `tensors`."""
        return cls(
            _factor(tensors, "lokr_w1"),
            _factor(tensors, "lokr_w2"),
            scale=scale,
            magnitude=read_magnitude(tensors),
            rows_swapped="lokr_rows_swapped" in tensors,
            bias=tensors.get("diff_b"),
        )


def _product(parts: nn.ParameterList) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 3:
        return torch.einsum("stkl,sb,td->bdkl", *(part.float() for part in parts))
    left, right = parts
    return (left @ right.flatten(1)).view(left.shape[0], *right.shape[1:])


def _product_shape(parts: nn.ParameterList) -> tuple[int, ...]:
    if len(parts) == 3:
        core, left, right = parts
        return (left.shape[1], right.shape[1], *core.shape[2:])
    return (parts[0].shape[0], *parts[-1].shape[1:])


def _parts(name: str, parts: nn.ParameterList | list[Tensor]) -> dict[str, Tensor]:
    if len(parts) == 1:
        return {name: parts[0]}
    return {f"{name}_a": parts[0], f"{name}_b": parts[1]}


def _factor(tensors: Mapping[str, Tensor], name: str) -> Factor:
    if name in tensors:
        return tensors[name]
    core = name.replace("_w", "_t")
    return tuple(tensors[part] for part in (core, f"{name}_a", f"{name}_b") if part in tensors)
