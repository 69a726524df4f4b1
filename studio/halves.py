"""The two halves of a B-LoRA, content and style, told from the names of its layers.

Frenkel et al. 2024 (arXiv 2403.14572) found them in SDXL. For SD 1.x and 2.x the blocks of the
same place stand in, the first two with attention on the way up; nobody showed that they separate.
Nothing is read from metadata, so files of the authors' program have halves too.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from studio.errors import BadInput

if TYPE_CHECKING:
    from studio.adapter import Adapter

__all__ = ["HALVES", "block_of", "file_and_half", "half_of", "halves_in"]

HALVES = {"content": 0, "style": 1}


def block_of(half: str, family: str) -> str:
    """The block that carries a half, as the names of its layers begin."""
    level = 0 if family == "sdxl" else 1
    return f"unet.up_blocks.{level}.attentions.{HALVES[half]}"


def file_and_half(text: str) -> tuple[str, str]:
    """`robot.safetensors:style` is the file and "style"; the half is "" where none is named.

    A file that really has such a name is that file.
    """
    file, _, half = text.rpartition(":")
    if not file or half not in HALVES or Path(text).exists():
        return text, ""
    return file, half


def halves_in(layers: Iterable[str], family: str) -> tuple[str, ...]:
    """Which halves these layers make up; none where one of them belongs to neither."""
    blocks = {f"{block_of(half, family)}.": half for half in HALVES}
    found = {next((h for b, h in blocks.items() if layer.startswith(b)), "") for layer in layers}
    return () if "" in found else tuple(half for half in HALVES if half in found)


def half_of(adapter: "Adapter", half: str) -> "Adapter":
    """The adapter with the layers of one half only. Raises BadInput for what has no such half."""
    name = adapter.name or (adapter.path.stem if adapter.path else adapter.kind)
    block = {half: f"{block_of(half, adapter.family)}." for half in HALVES}
    strange = [layer for layer in adapter.deltas if not layer.startswith(tuple(block.values()))]
    if strange:
        raise BadInput(
            f"the adapter {name} has no {half} half, as it is no B-LoRA: it also changes "
            f"{strange[0]}"
        )
    deltas = {k: delta for k, delta in adapter.deltas.items() if k.startswith(block[half])}
    if not deltas:
        raise BadInput(f"the adapter {name} has no {half} half: it is the other half alone")
    return replace(adapter, deltas=deltas, half=half, name=f"{name} {half}")
