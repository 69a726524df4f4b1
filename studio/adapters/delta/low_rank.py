"""LoRA's form: the product of two low-rank matrices."""

import math
from collections.abc import Mapping
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from studio.adapters.delta.layer import (
    Layer,
    adaptable,
    add_bias,
    apply_weight,
    dora_change,
    magnitude_tensors,
    original_output,
    output_with_change,
    per_output,
    read_magnitude,
    row_norms,
    to_input_dtype,
)


class LowRank(nn.Module):
    """dW = scale * up @ down (Hu et al. 2021), scale = alpha / rank, or alpha / sqrt(rank).

    down: [rank, in], or [rank, in, kh, kw] for a convolution.  up: [out, rank(, 1, 1)].
    magnitude: with DoRA (Liu et al. 2024) the weight becomes m (W + dW) / |W + dW|: [out], a norm
    per output row as in the paper, or [1, in(, 1, 1)], a norm per input as in older LyCORIS files.
    up_bias: the layer's bias changes by scale * up_bias (peft's `lora_bias`): [out].
    dropout: the probability that an input of `down` is zeroed, in training mode only.
    """

    def __init__(
        self,
        down: Tensor,
        up: Tensor,
        alpha: float,
        *,
        rank_stabilised: bool = False,
        magnitude: Tensor | None = None,
        up_bias: Tensor | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if down.shape[0] != up.shape[1]:
            raise ValueError(f"down has rank {down.shape[0]}, up has rank {up.shape[1]}")
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(up)
        self.magnitude = None if magnitude is None else nn.Parameter(magnitude)
        self.up_bias = None if up_bias is None else nn.Parameter(up_bias)
        self.alpha = alpha
        self.rank_stabilised = rank_stabilised
        self.dropout = dropout

    @classmethod
    def start(
        cls,
        layer: nn.Module,
        rank: int,
        *,
        alpha: float,
        rank_stabilised: bool = False,
        dora: bool = False,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Self:
        """A new delta that changes nothing yet, initialized as in peft: down uniform, up zero.

        float32. Drawn on the CPU from `generator`, so that it is the same on every device.
        """
        weight = adaptable(layer).weight.detach()
        down = torch.empty(rank, *weight.shape[1:])
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        up = torch.zeros(weight.shape[0], rank, *(1 for _ in weight.shape[2:]))
        return cls(
            down.to(weight.device),
            up.to(weight.device),
            alpha,
            rank_stabilised=rank_stabilised,
            magnitude=row_norms(weight) if dora else None,
            dropout=dropout,
        )

    @property
    def rank(self) -> int:
        """The number of rows of `down`."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """The factor of `up @ down`."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)

    @property
    def bias(self) -> Tensor | None:
        """The change of the layer's bias at strength 1: [out]; None where there is none."""
        return None if self.up_bias is None else self.scale * self.up_bias

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight it changes."""
        return (self.up.shape[0], *self.down.shape[1:])

    def leading(self, rank: int) -> "LowRank":
        """The change of the first ranks alone, with the same scale."""
        return LowRank(
            self.down.detach()[:rank],
            self.up.detach()[:, :rank],
            alpha_of(self.scale, min(rank, self.rank), rank_stabilised=self.rank_stabilised),
            rank_stabilised=self.rank_stabilised,
            magnitude=self.magnitude,
        )

    def factors(self) -> tuple[Tensor, Tensor]:
        """Down and up, whose product times the scale is the change."""
        return self.down, self.up

    def dense(self, weight: Tensor) -> Tensor:
        """dW at strength 1: float32, shaped as the weight it is given; differentiable."""
        down, up = self.factors()
        change = self.scale * (up.float().flatten(1) @ down.float().flatten(1))
        return dora_change(weight, change.view(weight.shape), self.magnitude)

    def forward(self, layer: Layer, x: Tensor) -> Tensor:
        """The layer's output with the change. Only DoRA computes dW, for its norm."""
        return add_bias(layer, self._output(layer, x), self.bias)

    def _output(self, layer: Layer, x: Tensor) -> Tensor:
        if self.magnitude is not None and self.magnitude.ndim > 1:
            return output_with_change(layer, x, self.dense(layer.weight))
        dropping = self.training and self.dropout > 0
        down, up = self.factors()
        up = up.flatten(1)
        if isinstance(layer, nn.Linear) and self.magnitude is None and not dropping:
            weight = layer.weight  # read once: reading a quantized weight dequantizes it
            if self._is_plain(x, weight):
                return _Projection.apply(x, down.flatten(1), up, weight, layer.bias, self.scale)
        base = original_output(layer, x)
        dropped = F.dropout(x, self.dropout) if dropping else x
        # Scaling the narrow product is cheaper than scaling the wide one.
        low = apply_weight(layer, dropped, to_input_dtype(down, x)) * self.scale
        up = to_input_dtype(up, x)
        high = F.linear(low, up) if isinstance(layer, nn.Linear) else _conv1x1(low, up)
        if self.magnitude is None:
            return base + high.to(base.dtype)
        factor = self._factor(layer)
        if dropping:
            undirected = apply_weight(layer, dropped, layer.weight)
        else:
            undirected = base if layer.bias is None else base - per_output(layer, layer.bias)
        return base + ((factor - 1) * undirected + factor * high).to(base.dtype)

    def _is_plain(self, x: Tensor, weight: Tensor) -> bool:
        """Whether `_Projection` applies: no autocast, and the input has the weight's dtype."""
        return x.dtype == weight.dtype and not torch.is_autocast_enabled(x.device.type)

    def _factor(self, layer: Layer) -> Tensor:
        """m / |W + dW| for each output row, shaped to broadcast over the layer's output.

        No gradient flows through the norm: section 4.3 of the paper, and what peft does.
        """
        assert self.magnitude is not None
        with torch.no_grad():
            down, up = self.factors()
            change = up.flatten(1) @ down.flatten(1)
            total = layer.weight.flatten(1) + self.scale * change
            norm = total.norm(dim=1).clamp_min(torch.finfo(total.dtype).eps)
        return per_output(layer, self.magnitude / norm)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by their names in a file. `alpha` is in the file's metadata."""
        named = {"lora_A.weight": self.down, "lora_B.weight": self.up}
        named |= magnitude_tensors(self.magnitude, self.down.ndim)
        if self.up_bias is not None:
            named["lora_B.bias"] = self.up_bias
        return {name: tensor.detach() for name, tensor in named.items()}

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        *,
        alpha: float | None = None,
        rank_stabilised: bool = False,
    ) -> Self:
        """The inverse of `tensors`. alpha: None means the rank."""
        down, up = tensors["lora_A.weight"], tensors["lora_B.weight"]
        return cls(
            down,
            up,
            float(down.shape[0]) if alpha is None else alpha,
            rank_stabilised=rank_stabilised,
            magnitude=read_magnitude(tensors),
            up_bias=tensors.get("lora_B.bias"),
        )


def alpha_of(scale: float, rank: int, *, rank_stabilised: bool) -> float:
    """The alpha that gives a change of this rank this scale."""
    return scale * (math.sqrt(rank) if rank_stabilised else rank)


def _conv1x1(low: Tensor, up: Tensor) -> Tensor:
    """`up` [out, rank] as a 1 x 1 convolution of `low` [B, rank, h, w]."""
    return F.conv2d(low, up[..., None, None])


class _Projection(torch.autograd.Function):
    """x W' + b + scale (x down') up', the common case, with fewer temporary tensors.

    Products are added in place, forwards and backwards, which saves a tenth of the time of a
    small model's step. The result equals that of the plain formula, bit for bit. Only the factors
    are cast to x's precision, as autocast does.
    """

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        down: Tensor,
        up: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: float,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # [..., in] -> [N, in]
        low = (rows @ down.to(x.dtype).T).mul_(scale)  # [N, rank]
        total = F.linear(rows, weight, bias).addmm_(low, up.to(x.dtype).T)
        ctx.save_for_backward(rows, low, down, up, weight)
        ctx.scale, ctx.shape = scale, x.shape
        return total.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, low, down, up, weight = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        narrow = (grad @ up.to(grad.dtype)).mul_(ctx.scale)  # [N, rank]
        needs = ctx.needs_input_grad
        wide = down.to(grad.dtype)
        return (
            (grad @ weight).addmm_(narrow, wide).view(ctx.shape) if needs[0] else None,
            (narrow.T @ rows).to(down.dtype) if needs[1] else None,
            (grad.T @ low).to(up.dtype) if needs[2] else None,
            grad.T @ rows if needs[3] else None,
            grad.sum(0) if needs[4] else None,
            None,
        )
