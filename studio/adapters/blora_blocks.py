"""The two halves of a B-LoRA, content and style, and the UNet blocks that each half changes.

Frenkel et al. 2024 (arXiv 2403.14572) found the blocks of SDXL by giving single blocks another
prompt. The same experiment finds the blocks of the sketch base one level up
(`python -m tests.benchmarks.blocks`). In the sketch base a block only passes on its prompt, and
neighbouring layers draw it. So each half also has the layers before or after its block: without
them it cannot draw what the base never saw. On SD 1.x and 2.x the halves are the first two blocks
with attention on the way up; nobody has shown that these separate content from style. An adapter
that names no blocks has the blocks of its base, so files of the authors' program have halves too.
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
# The blocks of content and of style, by the base's name or else by its family.
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
    """The UNet blocks of each half, on a base of this name and family.

    An unknown family gets the blocks of SD 1.x.
    """
    blocks = BLOCKS.get(base) or BLOCKS.get(family, BLOCKS["sd1"])
    return dict(zip(HALVES, blocks, strict=True))


def parse_blocks(text: str) -> tuple[str, ...]:
    """`mid_block, up_blocks.0` is two blocks."""
    return tuple(filter(None, (block.strip() for block in text.split(","))))


def trained_blocks(
    base: str, family: str, recipe: Mapping[str, object]
) -> dict[str, tuple[str, ...]]:
    """The blocks of each half: those that the recipe names, or else those of the base."""
    options = recipe.get("options")
    stated = options if isinstance(options, dict) else {}
    named = {half: parse_blocks(str(stated[half])) for half in HALVES if stated.get(half)}
    return default_blocks(base, family) | named


def layers_of_half(
    half: str, layers: Mapping[str, T], trained: Mapping[str, tuple[str, ...]]
) -> dict[str, T]:
    """The layers of one half. layers: anything by layer name. trained: from `trained_blocks`."""
    prefixes = layer_prefixes(trained[half])
    return {layer: value for layer, value in layers.items() if layer.startswith(prefixes)}


def layer_prefixes(blocks: Iterable[str]) -> tuple[str, ...]:
    """The prefixes of the names of these blocks' layers."""
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
    """The halves that these layers belong to; none where a layer belongs to neither half.

    trained: the blocks of each half, from `trained_blocks`.
    """
    prefixes = {half: layer_prefixes(blocks) for half, blocks in trained.items()}
    halves = {
        next((half for half, start in prefixes.items() if layer.startswith(start)), "")
        for layer in layers
    }
    return () if "" in halves else tuple(half for half in HALVES if half in halves)


def select_half(adapter: A, half: str) -> A:
    """The adapter with the layers of one half only. Raises BadInput where it has no such half."""
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
