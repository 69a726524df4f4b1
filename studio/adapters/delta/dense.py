"""A change without a compact form: the full matrix or kernel."""

from collections.abc import Mapping
from typing import Self

from torch import Tensor, nn

from studio.adapters.delta.layer import (
    Layer,
    dora_change,
    magnitude_tensors,
    output_with_change,
    per_output,
    read_magnitude,
)


class Dense(nn.Module):
    """dW itself, and optionally a change to the bias.

    change: shaped as the weight.  bias: [out].  magnitude: as in LowRank.
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
        changed = output_with_change(layer, x, change)
        if self.bias is None:
            return changed
        return changed + per_output(layer, self.bias).to(changed.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by their names on disk."""
        named = {"diff": self.change}
        if self.bias is not None:
            named["diff_b"] = self.bias
        named |= magnitude_tensors(self.magnitude, self.change.ndim)
        return {name: tensor.detach() for name, tensor in named.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        return cls(tensors["diff"], tensors.get("diff_b"), magnitude=read_magnitude(tensors))
