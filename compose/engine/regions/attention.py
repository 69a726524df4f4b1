"""How strongly places of a picture attend to tokens of its prompt.

Read beside the UNet's own attention, from its queries and keys, so that fused kernels stay as they
are: softmax(Q K^T / sqrt(d)) over all tokens, the mean over heads and over the cross-attention
layers of the first up block that has any. That block has 16 x 16 places of a picture of 512 pixels
in SD 1.5, where CLoRA (arXiv 2403.19776) reads, and holds the layer that FreeFuse (arXiv
2510.23515) reads in SDXL.
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
    """What the watched layers computed in the last pass: (layer, queries, keys) of each.

    queries: [B, places, C].  keys: [B, tokens, C].
    """

    layers: list[tuple[Attention, Tensor, Tensor]] = field(default_factory=list)

    def maps(self, row: int, words: Words, side: tuple[int, int]) -> Tensor:
        """The attention of a row to each of the words, in a picture of latents of that side.

        Returns [N, height, width], float32, of the layers' places. Each layer counts alike: its
        maps have a mean of 1 before the mean of all is taken.
        """
        found = [_share(*layer, row, words) for layer in self.layers]
        found = [one / one.mean(1, keepdim=True) for one in found]
        height, width = _grid(found[0].shape[1], side)
        return torch.stack(found).mean(0).view(-1, height, width)


@contextmanager
def watching(unet: UNet2DConditionModel) -> Iterator[Watched]:
    """Evaluations inside are watched; a later one takes the place of an earlier one."""
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
    """The cross-attention of the first up block that has any, in the order in which it runs."""
    for block in unet.up_blocks:
        found = [
            module
            for name, module in block.named_modules()
            if name.endswith(".attn2") and isinstance(module, Attention)
        ]
        if found:
            return found
    raise AssertionError("a UNet that is conditioned on text has cross-attention")


def _share(layer: Attention, query: Tensor, key: Tensor, row: int, words: Words) -> Tensor:
    """Of a row of the batch, how much of the attention goes to each of the words: [N, places]."""
    q, k = (
        one[row].float().unflatten(-1, (layer.heads, -1)).transpose(0, 1) for one in (query, key)
    )
    attention = (q @ k.transpose(1, 2) * layer.scale).softmax(-1).mean(0)  # -> [places, tokens]
    return torch.stack([attention[:, list(tokens)].mean(1) for tokens in words])


def _grid(places: int, side: tuple[int, int]) -> tuple[int, int]:
    """Height and width of so many places, which are latents of that side halved a few times."""
    height, width = side
    while height * width > places:
        height, width = -(-height // 2), -(-width // 2)
    assert height * width == places
    return height, width


def enlarged(maps: Tensor, side: tuple[int, int]) -> Tensor:
    """Maps [N, h, w] in another size."""
    return F.interpolate(maps[None], side, mode="bilinear")[0]
