"""An adapter: named deltas and what they were trained for. It writes itself to a file."""

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from studio.adapters.delta import Delta
from studio.adapters.formats.metadata import AdapterInfo, adapter_metadata
from studio.adapters.formats.write import embedding_tensors, lora_metadata, own_tensors
from studio.adapters.tensor_file import write_tensors


@dataclass(frozen=True, eq=False, kw_only=True)
class Adapter(AdapterInfo):
    """Changes to a base's layers. An adapter is equal only to itself.

    deltas: changes by component and module path, as diffusers writes them, such as
    "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q" and
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj".
    embeddings: learned words, [n, width] by token and text encoder ("text_encoder",
    "text_encoder_2"). An adapter may hold embeddings alone. Strengths don't scale them: a learned
    vector replaces a word, it doesn't change one.
    half: "content" or "style" where the adapter is one half of a B-LoRA's file; otherwise "".
    path, sha256: the file that the adapter was loaded from, and its digest.
    """

    deltas: dict[str, Delta]
    embeddings: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    half: str = ""
    path: Path | None = None
    sha256: str = ""

    def save(self, path: str | Path) -> Path:
        """Write one .safetensors file atomically; equal adapters give equal bytes.

        Low-rank adapters load in diffusers with `load_lora_weights`. Raises BadInput where the
        file cannot be written.
        """
        metadata = adapter_metadata(self)
        if lora := lora_metadata(self.deltas):
            metadata["lora_adapter_metadata"] = lora
        tensors = own_tensors(self.deltas) | embedding_tensors(self.embeddings)
        write_tensors(Path(path), tensors, metadata)
        return Path(path)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Adapter":
        """A copy on another device or in another precision."""
        deltas = {
            layer: copy.deepcopy(delta).to(device=device, dtype=dtype)
            for layer, delta in self.deltas.items()
        }
        embeddings = {
            token: {name: rows.to(device=device, dtype=dtype) for name, rows in encoders.items()}
            for token, encoders in self.embeddings.items()
        }
        return replace(self, deltas=deltas, embeddings=embeddings)
