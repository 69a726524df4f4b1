"""Changes without a compact form: the full weight, and the bias alone."""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from studio.adapters.delta.layer import (
    Layer,
    add_bias,
    dora_change,
    magnitude_tensors,
    original_output,
    output_with_change,
    read_magnitude,
)


class Dense(nn.Module):
    """dW itself, and optionally a change to the bias.

    change: shaped as the weight; [n] for a normalisation.  bias: [out].
    magnitude: as in LowRank.
    """

    def __init__(
        self, change: Tensor, bias: Tensor | None = None, *, magnitude: Tensor | None = None
    ) -> None:
        super().__init__()
        self.change = nn.Parameter(change)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.magnitude = None if magnitude is None else nn.Parameter(magnitude)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight it changes."""
        return tuple(self.change.shape)

    def dense(self, weight: Tensor) -> Tensor:
        """dW at strength 1: float32, shaped as the weight it is given."""
        return dora_change(weight, self.change.float().view(weight.shape), self.magnitude)

    def forward(self, layer: Layer, x: Tensor) -> Tensor:
        """The layer's output with the change."""
        change = self.change if self.magnitude is None else self.dense(layer.weight)
        return add_bias(layer, output_with_change(layer, x, change), self.bias)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by their names in a file."""
        named = {"diff": self.change}
        if self.bias is not None:
            named["diff_b"] = self.bias
        named |= magnitude_tensors(self.magnitude, self.change.ndim)
        return {name: tensor.detach() for name, tensor in named.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        return cls(tensors["diff"], tensors.get("diff_b"), magnitude=read_magnitude(tensors))


class BiasOnly(nn.Module):
    """A change to the bias alone; the weight stays as it is.

    bias: [out].
    """

    magnitude: Tensor | None = None  # the weight doesn't change
    shape: tuple[int, ...] = ()  # the weight's shape is not known

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias)

    def dense(self, weight: Tensor) -> Tensor:
        """dW: zeros in float32, shaped as the weight it is given."""
        return torch.zeros_like(weight, dtype=torch.float32)

    def forward(self, layer: Layer, x: Tensor) -> Tensor:
        """The layer's output with the change."""
        return add_bias(layer, original_output(layer, x), self.bias)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensor by its name in a file."""
        return {"diff_b": self.bias.detach()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        return cls(tensors["diff_b"])
