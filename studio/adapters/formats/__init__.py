"""The key names and tensor layouts of other programs' adapter files, read and written.

Read: peft and diffusers in all their dialects, kohya's sd-scripts, LyCORIS (LoCon, LoHa, LoKr,
full, DoRA) and DiffuseKronA's authors. Written: diffusers, kohya, LyCORIS. Embeddings beside an
adapter's layers, or alone as textual inversion, both ways.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from studio.adapters.formats.metadata import FAMILIES, AdapterInfo, adapter_metadata, read_info
from studio.adapters.formats.names import kohya_name, layer_name
from studio.adapters.formats.survey import Contents, survey

if TYPE_CHECKING:
    from studio.adapters.formats.read import read_deltas, read_embeddings
    from studio.adapters.formats.write import (
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
    "AdapterInfo",
    "Contents",
    "adapter_metadata",
    "embedding_tensors",
    "kohya_name",
    "layer_name",
    "lora_metadata",
    "own_tensors",
    "read_deltas",
    "read_embeddings",
    "read_info",
    "survey",
    "to_diffusers",
    "to_inversions",
    "to_kohya",
    "to_lycoris",
]

# These need PyTorch, which takes seconds to import; what a file is can be told without.
_HOMES = {
    "embedding_tensors": "studio.adapters.formats.write",
    "lora_metadata": "studio.adapters.formats.write",
    "own_tensors": "studio.adapters.formats.write",
    "read_deltas": "studio.adapters.formats.read",
    "read_embeddings": "studio.adapters.formats.read",
    "to_diffusers": "studio.adapters.formats.write",
    "to_inversions": "studio.adapters.formats.write",
    "to_kohya": "studio.adapters.formats.write",
    "to_lycoris": "studio.adapters.formats.write",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'studio.adapters.formats' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
