"""What an adapter's file is, told from its header: no tensor is read, no PyTorch is imported."""

import math
from collections import Counter
from pathlib import Path
from typing import TypeAlias

from studio.errors import BadInput
from studio.formats import Contents, read_facts, survey
from studio.halves import halves_in, trained_blocks
from studio.header import Header, read_header

__all__ = ["JSON", "adapter_file", "describe"]

JSON: TypeAlias = "dict[str, JSON] | list[JSON] | str | int | float | bool | None"
FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
NOT_TRAINED = {"alpha", "sparse_gaps", "sparse_shape", "lokr_rows_swapped"}


def describe(path: str | Path) -> dict[str, JSON]:
    """What an adapter's file is.

    layers: of each component. forms: layers of each. ranks: layers of each low rank.
    halves: of a B-LoRA. parameters: the trained numbers. Raises BadInput as `load_adapter`.
    """
    path = adapter_file(Path(path))
    header = read_header(path)
    contents = survey(header, path)
    facts = read_facts(header.metadata, path)
    family = facts.family or contents.family
    blocks = trained_blocks(facts.base, family, facts.recipe)
    return {
        "name": facts.name,
        "kind": facts.kind,
        "family": family,
        "base": facts.base,
        "fingerprint": facts.fingerprint,
        "triggers": list(facts.triggers),
        "layers": dict(Counter(layer.partition(".")[0] for layer in contents.layers)),
        "forms": dict(Counter(contents.forms.values())),
        "halves": list(halves_in(contents.layers, blocks)),
        "ranks": _ranks(header, contents),
        "parameters": _parameters(header, contents),
        "bytes": header.bytes,
        "preview": facts.preview is not None,
        "recipe": facts.recipe,
    }


def adapter_file(path: Path) -> Path:
    """The adapter's file, also when its folder is given; BadInput where there is none."""
    if path.is_dir():
        for name in FILES:
            if (path / name).is_file():
                return path / name
        raise BadInput(f"the folder {path} holds no adapter: there is no {' or '.join(FILES)}")
    if not path.is_file():
        raise BadInput(f"there is no adapter {path}")
    return path


def _ranks(header: Header, contents: Contents) -> "dict[str, JSON]":
    ranks = Counter(
        header.shapes[leaves["lora_B.weight"]][1]
        for layer, leaves in contents.layers.items()
        if contents.forms[layer] == "lora"
    )
    return {str(rank): layers for rank, layers in sorted(ranks.items())}


def _parameters(header: Header, contents: Contents) -> int:
    return sum(
        math.prod(header.shapes[key])
        for leaves in contents.layers.values()
        for leaf, key in leaves.items()
        if leaf not in NOT_TRAINED
    )
