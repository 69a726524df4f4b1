"""A description of an adapter's file from its header alone, without PyTorch."""

import math
from collections import Counter
from pathlib import Path

from studio.adapters.blora_blocks import HALVES, find_halves, trained_blocks
from studio.adapters.component_folders import component_files
from studio.adapters.formats.metadata import AdapterInfo, read_info
from studio.adapters.formats.peft_config import config_of
from studio.adapters.formats.survey import Contents, survey
from studio.adapters.safetensors_header import Header, read_header, read_number
from studio.errors import BadInput
from studio.json_value import JSON

FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
NOT_TRAINED = {"alpha", "sparse_gaps", "sparse_shape", "lokr_rows_swapped"}


def describe(path: str | Path) -> dict[str, JSON]:
    """Describe an adapter's file.

    layers: of each component. forms: layers of each. ranks: layers of each low rank. alphas:
    layers of each alpha, where the rank is the alpha that a file does not state.
    halves: of a B-LoRA. tokens: vectors of each learned word. parameters: the trained numbers.
    Raises BadInput as `load_adapter`.
    """
    path = find_adapter_file(Path(path))
    header = read_header(path)
    contents = survey(header, path)
    info = read_info(header.metadata, path)
    family = info.family or contents.family
    blocks = trained_blocks(info.base, family, info.recipe)
    return {
        "name": info.name,
        "kind": info.kind,
        "family": family,
        "base": info.base,
        "fingerprint": info.fingerprint,
        "triggers": list(trigger_words(info, contents)),
        "tokens": _tokens(header, contents),
        "layers": dict(Counter(layer.partition(".")[0] for layer in contents.layers)),
        "forms": dict(Counter(contents.forms.values())),
        "halves": list(find_halves(contents.layers, blocks)),
        "ranks": _ranks(header, contents),
        "alphas": _alphas(path, header, contents),
        "parameters": _parameters(header, contents),
        "bytes": header.bytes,
        "preview": info.preview is not None,
        "recipe": info.recipe,
    }


def trigger_words(info: AdapterInfo, contents: Contents) -> tuple[str, ...]:
    """The trigger words; another program's file without any has the words of its embeddings."""
    stated = info.triggers or info.kind != "unknown"
    return info.triggers if stated else tuple(contents.embeddings)


def find_adapter_file(path: Path) -> Path:
    """The file of an adapter given as a file or a folder; BadInput where there is none.

    The folder itself where it has a folder for each component.
    """
    if path.is_dir():
        for name in FILES:
            if (path / name).is_file():
                return path / name
        if component_files(path):
            return path
        raise BadInput(f"the folder {path} holds no adapter: there is no {' or '.join(FILES)}")
    if not path.is_file():
        file, _, half = str(path).rpartition(":")
        if Path(file).is_file():
            halves = " and ".join(f":{name}" for name in HALVES)
            raise BadInput(f"there is no half :{half} of {file}: a B-LoRA has {halves}")
        raise BadInput(f"there is no adapter {path}")
    return path


def _ranks(header: Header, contents: Contents) -> dict[str, JSON]:
    ranks = Counter(
        header.shapes[leaves["lora_B.weight"]][1]
        for layer, leaves in contents.layers.items()
        if contents.forms[layer] == "lora"
    )
    return {str(rank): layers for rank, layers in sorted(ranks.items())}


def _alphas(path: Path, header: Header, contents: Contents) -> dict[str, JSON]:
    found: Counter[float] = Counter()
    for layer, leaves in contents.layers.items():
        if contents.forms[layer] != "lora":
            continue
        if "alpha" in leaves:
            alpha = read_number(path, header, leaves["alpha"])
        else:
            name = layer.partition(".")[2]
            alpha = config_of(layer, contents.configs).alpha.find(name)
        found[header.shapes[leaves["lora_B.weight"]][1] if alpha is None else alpha] += 1
    return {f"{alpha:g}": layers for alpha, layers in sorted(found.items())}


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
