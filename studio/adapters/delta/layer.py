"""Functions that all forms of change use: run a layer with a change, and DoRA's magnitude."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = nn.Linear | nn.Conv2d
Norm = nn.LayerNorm | nn.GroupNorm  # an adapter may change their weight and bias too


def adaptable(layer: nn.Module) -> Layer:
    """The layer itself. Raises TypeError unless it is linear or an ungrouped convolution."""
    if not isinstance(layer, nn.Linear | nn.Conv2d) or getattr(layer, "groups", 1) != 1:
        raise TypeError(f"only nn.Linear and ungrouped nn.Conv2d are adapted, not {layer}")
    return layer


def weight_shape(layer: nn.Module) -> tuple[int, ...]:
    """The shape of a layer's or a normalisation's weight, without dequantizing it."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size
    return tuple(layer.weight.shape)  # pyright: ignore[reportArgumentType, reportCallIssue]


def original_output(layer: Layer, x: Tensor) -> Tensor:
    """The layer's own output, also while its `forward` is replaced by a delta's."""
    forward = nn.Linear.forward if isinstance(layer, nn.Linear) else nn.Conv2d.forward
    return forward(layer, x)  # pyright: ignore[reportArgumentType]


def apply_weight(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """The layer's output for x with another weight, without bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight.flatten(1))
    kernel = as_kernel(layer, weight)
    return F.conv2d(x, kernel, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def output_with_change(layer: Layer, x: Tensor, change: Tensor) -> Tensor:
    """The layer's output for x, with a change of the weight's shape added to the weight."""
    base = original_output(layer, x)
    return base + apply_weight(layer, x, to_input_dtype(change, x)).to(base.dtype)


def as_kernel(layer: nn.Conv2d, weight: Tensor) -> Tensor:
    """A weight in the convolution's shape. Some files store it flattened to a matrix."""
    return weight.reshape(len(weight), -1, *layer.kernel_size)


def per_output(layer: Layer, row: Tensor) -> Tensor:
    """One number per output channel, shaped to broadcast over the layer's output."""
    return row if isinstance(layer, nn.Linear) else row.view(1, -1, 1, 1)


def add_bias(layer: Layer, output: Tensor, bias: Tensor | None) -> Tensor:
    """A layer's output with a change of its bias added. bias: [out], None for no change."""
    return output if bias is None else output + per_output(layer, bias).to(output.dtype)


def to_input_dtype(tensor: Tensor, x: Tensor) -> Tensor:
    """A delta's tensor in x's dtype; unchanged under autocast, which chooses the dtype itself."""
    return tensor if torch.is_autocast_enabled(x.device.type) else tensor.to(x.dtype)


def dora_change(weight: Tensor, change: Tensor, magnitude: Tensor | None) -> Tensor:
    """DoRA's dW, m (W + change) / |W + change| - W; without a magnitude the change itself."""
    if magnitude is None:
        return change
    total = weight.float() + change
    dim = 0 if magnitude.ndim == 1 else 1  # a norm per output, or per input
    norm = total.transpose(0, dim).flatten(1).norm(dim=1)
    factor = magnitude.float().flatten() / norm.clamp_min(torch.finfo(total.dtype).eps)
    sides = [1] * total.ndim
    sides[dim] = -1
    return factor.view(sides) * total - weight.float()


def row_norms(weight: Tensor) -> Tensor:
    """The norm of each output row, which DoRA's magnitude starts from: [out], float32."""
    return weight.float().flatten(1).norm(dim=1)


def magnitude_tensors(magnitude: Tensor | None, ndim: int) -> dict[str, Tensor]:
    """A magnitude's tensor in a file: peft's name and shape, or LyCORIS's if it is per input."""
    if magnitude is None:
        return {}
    if magnitude.ndim > 1:
        return {"dora_scale": magnitude}
    return {"lora_magnitude_vector": magnitude.view(1, -1, 1, 1) if ndim == 4 else magnitude}


def read_magnitude(tensors: Mapping[str, Tensor]) -> Tensor | None:
    """The inverse of `magnitude_tensors`.

    LyCORIS's `dora_scale` is [out, 1(, 1, 1)], or [1, in(, 1, 1)].
    """
    if "lora_magnitude_vector" in tensors:
        return tensors["lora_magnitude_vector"].flatten()
    scale = tensors.get("dora_scale")
    if scale is None or (scale.ndim > 1 and scale.shape[0] == 1):
        return scale
    return scale.flatten()
