"""An adapter: named deltas, what they were trained for, and the one file that holds them."""

import copy
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import Tensor, nn

from studio.adapters.blora_blocks import select_half, split_half
from studio.adapters.delta import Delta, Sparse
from studio.adapters.describe import JSON, find_adapter_file, trigger_words
from studio.adapters.formats import (
    FAMILIES,
    adapter_metadata,
    embedding_tensors,
    lora_metadata,
    own_tensors,
    read_deltas,
    read_embeddings,
    read_info,
    survey,
)
from studio.adapters.safetensors_header import read_header
from studio.adapters.tensor_file import read_tensors, write_tensors
from studio.adapters.token_embeddings import check_embeddings
from studio.errors import BadInput

if TYPE_CHECKING:
    from studio.bases.base import Base

__all__ = ["JSON", "Adapter", "Coverage", "check_fits", "load_adapter"]


@dataclass(frozen=True, eq=False)
class Adapter:
    """Changes to a base's layers; equal only to itself.

    deltas: by component and module path, as diffusers writes them, such as
    "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q" and
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj".
    kind: of trainers/, "unknown" for files of other programs.
    family: "sd1", "sd2", "sdxl", or "" where a foreign file does not tell.
    embeddings: what prompts may say while it is in the mix: [n, width] by token and text encoder
    ("text_encoder", "text_encoder_2"). It may carry nothing else. They are there or not, whatever
    the strength: a learned vector stands in a word's place and is no change of one.
    half: "content" or "style" where it is that half of a B-LoRA's file.
    base, fingerprint: the base it was trained on. path, sha256: the file it was loaded from.
    """

    deltas: dict[str, Delta]
    kind: str
    family: str
    base: str = ""
    fingerprint: str = ""
    triggers: tuple[str, ...] = ()
    embeddings: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    recipe: dict[str, JSON] = field(default_factory=dict)
    preview: Image.Image | None = None
    name: str = ""
    half: str = ""
    path: Path | None = None
    sha256: str = ""

    def save(self, path: str | Path) -> Path:
        """Write one .safetensors file, whole or not at all; equal adapters give equal bytes.

        Low-rank adapters load in diffusers with `load_lora_weights`. Raises BadInput where the
        file cannot be written.
        """
        path = Path(path)
        metadata = adapter_metadata(self)
        lora = lora_metadata(self.deltas)
        if lora:
            metadata["lora_adapter_metadata"] = lora
        write_tensors(path, own_tensors(self.deltas) | embedding_tensors(self.embeddings), metadata)
        return path

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Adapter":
        """A copy elsewhere or in another precision; this one stays as it is."""
        deltas = {
            layer: copy.deepcopy(delta).to(device=device, dtype=dtype)
            for layer, delta in self.deltas.items()
        }
        embeddings = {
            token: {name: rows.to(device=device, dtype=dtype) for name, rows in own.items()}
            for token, own in self.embeddings.items()
        }
        return replace(self, deltas=deltas, embeddings=embeddings)


@dataclass(frozen=True)
class Coverage:
    """How much of an adapter a base has layers for."""

    matched: int
    total: int
    missing: tuple[str, ...]
    base: str

    @property
    def sentence(self) -> str:
        """Such as "240 of 264 layers matched, base sdxl"."""
        return f"{self.matched} of {self.total} layers matched, base {self.base}"


_COVERED: "WeakKeyDictionary[Base, WeakKeyDictionary[Adapter, Coverage]]" = WeakKeyDictionary()


def load_adapter(path: str | Path, *, base: "Base | None" = None) -> Adapter:
    """Read an adapter's file: Studio's own, or one that `studio.adapters.formats` lists.

    path: the file, or a folder that diffusers or peft wrote it into; with ":content" or ":style"
    behind it, that half of a B-LoRA. base: where given, the adapter must fit it, and a file that
    does not tell its family is taken to be of the base's.
    Raises BadInput for what is no such file, is damaged, or does not fit.
    """
    file, half = split_half(str(path))
    path = find_adapter_file(Path(file))
    # The header first: a file that lies in it is refused before its tensors are believed.
    header = read_header(path)
    contents = survey(header, path)
    tensors, sha256 = read_tensors(path, header)
    facts = read_info(header.metadata, path)
    adapter = Adapter(
        deltas=read_deltas(contents, tensors, path),
        kind=facts.kind,
        family=facts.family or contents.family or (base.family if base else ""),
        base=facts.base,
        fingerprint=facts.fingerprint,
        triggers=trigger_words(facts, contents),
        embeddings=read_embeddings(contents, tensors, path),
        recipe=facts.recipe,
        preview=facts.preview,
        name=facts.name,
        path=path,
        sha256=sha256,
    )
    if half:
        adapter = select_half(adapter, half)
    if base is not None:
        check_fits(adapter, base)
    return adapter


def check_fits(adapter: Adapter, base: "Base") -> Coverage:
    """How much of the adapter the base has layers for.

    Raises BadInput where it is of another family, no layer matches or one has another shape. Of
    the hundreds of layers of a large base every one is looked at once, not for every picture.
    """
    known = _COVERED.setdefault(base, WeakKeyDictionary())
    if adapter not in known:
        known[adapter] = _covered(adapter, base)
    return known[adapter]


def _covered(adapter: Adapter, base: "Base") -> Coverage:
    who = f"the adapter {adapter.path or adapter.name or adapter.kind}"
    if adapter.family and adapter.family != base.family:
        raise BadInput(
            f"{who} was made for {FAMILIES[adapter.family]}, "
            f"and the base {base.name} is {FAMILIES[base.family]}: choose another of the two"
        )
    layers = base.layers()
    missing = tuple(layer for layer in adapter.deltas if layer not in layers)
    check_embeddings(adapter.embeddings, base, who)
    if len(missing) == len(adapter.deltas) and (missing or not adapter.embeddings):
        raise BadInput(
            f"{who} has no layer that the base {base.name} has: its first is {missing[0]}"
            if missing
            else f"{who} changes nothing: it has no layers"
        )
    for layer, delta in adapter.deltas.items():
        if layer not in layers:
            continue
        if delta.bias is not None and getattr(layers[layer], "bias", None) is None:
            raise BadInput(
                f"{who} changes the bias of {layer}, which has none in the base {base.name}"
            )
        if not _fits(delta, layers[layer]):
            raise BadInput(
                f"{who} was made for a base of another size: its {layer} is "
                f"{_sides(delta.shape)}, and that of {base.name} is "
                f"{_sides(_weight_shape(layers[layer]))}"
            )
    _check_fingerprint(adapter, base, who)
    total = len(adapter.deltas)
    return Coverage(total - len(missing), total, missing, base.name)


def _check_fingerprint(adapter: Adapter, base: "Base", who: str) -> None:
    """Entries were chosen among the weights of one base, and mean nothing in another's."""
    sparse = any(isinstance(delta, Sparse) for delta in adapter.deltas.values())
    if sparse and adapter.fingerprint and adapter.fingerprint != base.fingerprint():
        raise BadInput(
            f"{who} changes single weights of {adapter.base or 'the base it was trained on'} "
            f"({adapter.fingerprint[:10]}), and the base {base.name} ({base.fingerprint()[:10]}) "
            "has others: open that base"
        )


def _fits(delta: Delta, layer: nn.Module) -> bool:
    """Whether the change has the weight's shape, or is flattened as some programs do."""
    own, weight = delta.shape, _weight_shape(layer)
    flat = own[0] == weight[0] and math.prod(own) == math.prod(weight)
    return flat and (own == weight or min(len(own), len(weight)) == 2)


def _weight_shape(layer: nn.Module) -> tuple[int, ...]:
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    return tuple(weight.shape)


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
