"""Describe an adapter's file from its header alone, without PyTorch."""

import math
from collections import Counter
from pathlib import Path

from studio.adapters.adapter_header import read_adapter_header
from studio.adapters.blora_blocks import find_halves, trained_blocks
from studio.adapters.formats.peft_config import config_of
from studio.adapters.formats.survey import DORA, Contents
from studio.adapters.safetensors_header import Header, read_number
from studio.json_value import JSON

# What users read for each form of change.
FORMS = {
    "lora": "LoRA",
    "loha": "LoHa",
    "lokr": "LoKr",
    "krona": "DiffuseKronA",
    "oft": "OFT",
    "sparse": "single weights (SaRA)",
    "diff": "whole weights",
    "bias": "biases",
}
# The tensors that show a layer's rank, and which of their dimensions it is. The first tensor that
# the layer has counts.
RANKS = {
    "lora": (("lora_B.weight", 1),),
    "loha": (("hada_w1_b", 0),),
    "lokr": (("lokr_t2", 0), ("lokr_w2_b", 0), ("lokr_w1_b", 0)),
}
NOT_TRAINED = {"alpha", "sparse_gaps", "sparse_shape", "lokr_rows_swapped"}


def describe(path: str | Path) -> dict[str, JSON]:
    """Describe an adapter's file.

    what: the kinds of its changes, in words. halves: those of a B-LoRA.
    layers, forms, ranks, alphas, blocks: number of layers by component, by form, by rank, by alpha,
    and by the count and size of a rotation's blocks. Layers without a rank are in neither `ranks`
    nor `alphas`. An alpha that the file does not state is the rank.
    tokens: number of vectors by learned word. parameters: how many numbers were trained.
    Raises BadInput as `load_adapter` does.
    """
    file = read_adapter_header(Path(path))
    header, contents, info = file.header, file.contents, file.info
    blocks = trained_blocks(info.base, info.family, info.recipe)
    return {
        "name": info.name,
        "what": _what(header, contents),
        "kind": info.kind,
        "family": info.family,
        "base": info.base,
        "fingerprint": info.fingerprint,
        "triggers": list(info.triggers),
        "tokens": _tokens(header, contents),
        "layers": dict(Counter(layer.partition(".")[0] for layer in contents.layers)),
        "forms": dict(Counter(contents.forms.values())),
        "halves": list(find_halves(contents.layers, blocks)),
        "ranks": _ranks(header, contents),
        "alphas": _alphas(file.path, header, contents),
        "blocks": dict(Counter(f"{b.count} of {b.size}" for b in contents.rotations.values())),
        "parameters": _parameters(header, contents),
        "bytes": header.bytes,
        "preview": info.preview is not None,
        "recipe": info.recipe,
    }


def _what(header: Header, contents: Contents) -> str:
    """The kinds of changes in words, such as "LoRA with DoRA, normalisations"."""
    kinds = {"new words": None} if contents.embeddings else {}
    for layer, leaves in contents.layers.items():
        form = contents.forms[layer]
        kind = FORMS[form]
        if leaves.keys() & DORA:
            kind += " with DoRA"
        elif form == "diff" and len(header.shapes[leaves["diff"]]) == 1:
            kind = "normalisations"
        kinds[kind] = None
    return ", ".join(kinds)


def _rank(header: Header, contents: Contents, layer: str) -> int | None:
    """A layer's rank; None where its form has none."""
    leaves = contents.layers[layer]
    for leaf, side in RANKS.get(contents.forms[layer], ()):
        if leaf in leaves:
            return header.shapes[leaves[leaf]][side]
    return None


def _ranks(header: Header, contents: Contents) -> dict[str, JSON]:
    ranks = Counter(_rank(header, contents, layer) for layer in contents.layers)
    return {str(rank): ranks[rank] for rank in sorted(r for r in ranks if r is not None)}


def _alphas(path: Path, header: Header, contents: Contents) -> dict[str, JSON]:
    alphas: Counter[float] = Counter()
    for layer, leaves in contents.layers.items():
        if (rank := _rank(header, contents, layer)) is None:
            continue
        if "alpha" in leaves:
            alpha = read_number(path, header, leaves["alpha"])
        else:
            name = layer.partition(".")[2]
            alpha = config_of(layer, contents.configs).alpha.find(name)
        alphas[rank if alpha is None else alpha] += 1
    return {f"{alpha:g}": layers for alpha, layers in sorted(alphas.items())}


def _tokens(header: Header, contents: Contents) -> dict[str, JSON]:
    shapes = {
        token: header.shapes[next(iter(keys.values()))]
        for token, keys in contents.embeddings.items()
    }
    return {token: shape[0] if len(shape) > 1 else 1 for token, shape in shapes.items()}


def _parameters(header: Header, contents: Contents) -> int:
    tables = (*contents.layers.values(), *contents.embeddings.values())
    return sum(
        math.prod(header.shapes[key])
        for leaves in tables
        for leaf, key in leaves.items()
        if leaf not in NOT_TRAINED
    )
