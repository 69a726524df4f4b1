"""Cross-attention maps: how strongly each place of a picture attends to tokens of its prompt.

The maps are computed from the queries and keys of the UNet's attention, in addition to it, so that
fused attention kernels can stay in use. They are softmax(Q K^T / sqrt(d)) over all tokens, averaged
over the heads and over the cross-attention layers of the first up block that has any. In SD 1.5
that block has 16 x 16 places for a picture of 512 pixels, the size that CLoRA (arXiv 2403.19776)
reads. In SDXL it holds the layer that FreeFuse (arXiv 2510.23515) reads.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

Words = tuple[tuple[int, ...], ...]  # the places of the tokens of each concept


@dataclass(eq=False)
class Watched:
    """The queries and keys of the watched layers in the last pass: (layer, queries, keys) of each.

    queries: [B, places, C].  keys: [B, tokens, C].
    """

    layers: list[tuple[Attention, Tensor, Tensor]] = field(default_factory=list)

    def maps(self, row: int, words: Words, side: tuple[int, int]) -> Tensor:
        """The attention of one row of the batch to each of the N concepts: [N, h', w'], float32.

        side: height and width of the latents. h', w': the places of the layers, fewer than the
        latent pixels. All layers have equal weight: each map is scaled to a mean of 1 before the
        maps are averaged.
        """
        maps = [_share(*layer, row, words) for layer in self.layers]
        maps = [one / one.mean(1, keepdim=True) for one in maps]
        height, width = _grid(maps[0].shape[1], side)
        return torch.stack(maps).mean(0).view(-1, height, width)


@contextmanager
def watching(unet: UNet2DConditionModel) -> Iterator[Watched]:
    """Watch the evaluations within the block; each overwrites the one before it."""
    watched, queries = Watched(), dict[Attention, Tensor]()
    layers = watched_layers(unet)

    def keep_query(layer: Attention, _: nn.Module, given: object, query: Tensor) -> None:
        queries[layer] = query

    def keep_key(layer: Attention, _: nn.Module, given: object, key: Tensor) -> None:
        if layer is layers[0]:
            watched.layers.clear()
        watched.layers.append((layer, queries.pop(layer), key))

    with ExitStack() as stack:
        for layer in layers:
            for part, keep in ((layer.to_q, keep_query), (layer.to_k, keep_key)):
                hook = cast(nn.Module, part).register_forward_hook(partial(keep, layer))
                stack.callback(hook.remove)
        yield watched


def watched_layers(unet: UNet2DConditionModel) -> list[Attention]:
    """The cross-attention layers of the first up block that has any, in the order they run."""
    for block in unet.up_blocks:
        layers = [
            module
            for name, module in block.named_modules()
            if name.endswith(".attn2") and isinstance(module, Attention)
        ]
        if layers:
            return layers
    raise AssertionError("a UNet that is conditioned on text has cross-attention")


def _share(layer: Attention, query: Tensor, key: Tensor, row: int, words: Words) -> Tensor:
    """The share of the attention that goes to each concept in a row of the batch: [N, places]."""
    q, k = (
        one[row].float().unflatten(-1, (layer.heads, -1)).transpose(0, 1) for one in (query, key)
    )
    attention = (q @ k.transpose(1, 2) * layer.scale).softmax(-1).mean(0)  # -> [places, tokens]
    return torch.stack([attention[:, list(tokens)].mean(1) for tokens in words])


def _grid(places: int, side: tuple[int, int]) -> tuple[int, int]:
    """Height and width of this number of places: the latents' side, halved until it fits."""
    height, width = side
    while height * width > places:
        height, width = -(-height // 2), -(-width // 2)
    assert height * width == places
    return height, width


def enlarged(maps: Tensor, side: tuple[int, int]) -> Tensor:
    """Maps [N, h, w], interpolated to another size."""
    return F.interpolate(maps[None], side, mode="bilinear")[0]
