"""The two halves of a B-LoRA, content and style, and the blocks that they change.

Frenkel et al. 2024 (arXiv 2403.14572) found them in SDXL, by giving single blocks another prompt.
The same trial finds those of the sketch base one level up (`python -m tests.benchmarks.blocks`).
There a block only passes on its prompt, and neighbouring layers draw it. So each half also has the
layers before or after its block, without which it cannot draw what the base never saw. SD 1.x and
2.x use the first two blocks with attention on the way up; that these separate content and style has
not been shown. An adapter that names no blocks has those of its base, so files of the authors'
program have halves too.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from studio.errors import BadInput

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter
    from studio.adapters.formats.metadata import AdapterOutline

T = TypeVar("T")
A = TypeVar("A", "Adapter", "AdapterOutline")
HALVES = ("content", "style")
# Of each half, by the name of a base, or by its family.
BLOCKS = {
    "sketch": (
        ("mid_block", "up_blocks.0", "up_blocks.1.attentions.0", "up_blocks.1.resnets.0"),
        ("up_blocks.1.attentions.2", "up_blocks.1.resnets.2", "up_blocks.2"),
    ),
    "sdxl": (("up_blocks.0.attentions.0",), ("up_blocks.0.attentions.1",)),
    "sd1": (("up_blocks.1.attentions.0",), ("up_blocks.1.attentions.1",)),
    "sd2": (("up_blocks.1.attentions.0",), ("up_blocks.1.attentions.1",)),
}


def default_blocks(base: str, family: str) -> dict[str, tuple[str, ...]]:
    """The blocks of the UNet that carry each half, on a base of this name and family.

    Those of SD 1.x where the family is unknown.
    """
    blocks = BLOCKS.get(base) or BLOCKS.get(family, BLOCKS["sd1"])
    return dict(zip(HALVES, blocks, strict=True))


def parse_blocks(text: str) -> tuple[str, ...]:
    """`mid_block, up_blocks.0` is two blocks."""
    return tuple(filter(None, (block.strip() for block in text.split(","))))


def trained_blocks(
    base: str, family: str, recipe: Mapping[str, object]
) -> dict[str, tuple[str, ...]]:
    """The blocks that an adapter was trained with, or those of its base."""
    options = recipe.get("options")
    named = options if isinstance(options, dict) else {}
    own = {half: parse_blocks(str(named[half])) for half in HALVES if named.get(half)}
    return default_blocks(base, family) | own


def layers_of_half(
    half: str, layers: Mapping[str, T], trained: Mapping[str, tuple[str, ...]]
) -> dict[str, T]:
    """Those of the layers, by name, that make up one half. trained: as `trained_blocks` tells."""
    starts = layer_prefixes(trained[half])
    return {layer: one for layer, one in layers.items() if layer.startswith(starts)}


def layer_prefixes(blocks: Iterable[str]) -> tuple[str, ...]:
    """What the names of these blocks' layers start with."""
    return tuple(f"unet.{block}." for block in blocks)


def split_half(text: str) -> tuple[str, str]:
    """`robot.safetensors:style` is the file and "style"; the half is "" where none is named.

    A file that really has such a name is that file.
    """
    file, _, half = text.rpartition(":")
    if not file or half not in HALVES or os.path.exists(text):
        return text, ""
    return file, half


def find_halves(layers: Iterable[str], trained: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Which halves these layers make up; none where one of them belongs to neither.

    trained: the blocks of each half, as `trained_blocks` tells.
    """
    starts = {half: layer_prefixes(blocks) for half, blocks in trained.items()}
    found = {
        next((h for h, own in starts.items() if layer.startswith(own)), "") for layer in layers
    }
    return () if "" in found else tuple(half for half in HALVES if half in found)


def select_half(adapter: A, half: str) -> A:
    """The adapter with the layers of one half only. Raises BadInput for what has no such half."""
    name = adapter.name or (adapter.path.stem if adapter.path else adapter.kind)
    trained = trained_blocks(adapter.base, adapter.family, adapter.recipe)
    known = layer_prefixes(chain(*trained.values()))
    others = [layer for layer in adapter.deltas if not layer.startswith(known)]
    if others:
        raise BadInput(
            f"the adapter {name} has no {half} half, as it is no B-LoRA: it also changes "
            f"{others[0]}"
        )
    deltas = layers_of_half(half, adapter.deltas, trained)
    if not deltas:
        why = "it is the other half alone" if adapter.deltas else "it carries embeddings only"
        raise BadInput(f"the adapter {name} has no {half} half: {why}")
    return replace(adapter, deltas=deltas, half=half, name=f"{name} {half}")
