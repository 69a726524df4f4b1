"""The key names and tensor layouts of other programs' adapter files, read and written.

Read: peft and diffusers in all their dialects, kohya's sd-scripts, LyCORIS (LoCon, LoHa, LoKr,
full, DoRA) and DiffuseKronA's authors. Written: diffusers, kohya, LyCORIS.
"""

from studio.formats.metadata import FAMILIES, Facts, file_metadata, read_facts
from studio.formats.names import kohya_name, layer_name
from studio.formats.read import read_deltas
from studio.formats.survey import Contents, survey
from studio.formats.write import lora_metadata, own_tensors, to_diffusers, to_kohya, to_lycoris

__all__ = [
    "FAMILIES",
    "Contents",
    "Facts",
    "file_metadata",
    "kohya_name",
    "layer_name",
    "lora_metadata",
    "own_tensors",
    "read_deltas",
    "read_facts",
    "survey",
    "to_diffusers",
    "to_kohya",
    "to_lycoris",
]
