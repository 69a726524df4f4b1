"""The key names and tensor layouts of other programs' adapter files, read and written.

Read: peft and diffusers in all their dialects, kohya's sd-scripts, LyCORIS (LoCon, LoHa, LoKr,
full, DoRA) and DiffuseKronA's authors. Written: diffusers, kohya, LyCORIS. Embeddings beside an
adapter's layers, or alone as textual inversion, both ways.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from studio.formats.metadata import FAMILIES, Facts, file_metadata, read_facts
from studio.formats.names import kohya_name, layer_name
from studio.formats.survey import Contents, survey

if TYPE_CHECKING:
    from studio.formats.read import read_deltas, read_embeddings
    from studio.formats.write import (
        embedding_tensors,
        lora_metadata,
        own_tensors,
        to_diffusers,
        to_inversions,
        to_kohya,
        to_lycoris,
    )

__all__ = [
    "FAMILIES",
    "Contents",
    "Facts",
    "embedding_tensors",
    "file_metadata",
    "kohya_name",
    "layer_name",
    "lora_metadata",
    "own_tensors",
    "read_deltas",
    "read_embeddings",
    "read_facts",
    "survey",
    "to_diffusers",
    "to_inversions",
    "to_kohya",
    "to_lycoris",
]

# These need PyTorch, which takes seconds to import; what a file is can be told without.
_HOMES = {
    "embedding_tensors": "studio.formats.write",
    "lora_metadata": "studio.formats.write",
    "own_tensors": "studio.formats.write",
    "read_deltas": "studio.formats.read",
    "read_embeddings": "studio.formats.read",
    "to_diffusers": "studio.formats.write",
    "to_inversions": "studio.formats.write",
    "to_kohya": "studio.formats.write",
    "to_lycoris": "studio.formats.write",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'studio.formats' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
