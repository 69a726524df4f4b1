"""Find an adapter's layers, their forms and the base's family, from the file's header alone.

Every tensor must be recognised: ignoring one would give a wrong picture without a warning.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from studio.adapters.formats.foreign import name_foreign_file, stated_model
from studio.adapters.formats.names import layer_name
from studio.adapters.formats.peft_config import (
    PeftConfig,
    config_of,
    read_configs,
    refuse_other_changes,
)
from studio.adapters.formats.textual_inversion import (
    Rows,
    bundled_embeddings,
    guess_family,
    lone_embedding,
)
from studio.adapters.formats.weight_shapes import (
    Blocks,
    Shape,
    check_cores,
    check_dtypes,
    check_size,
    check_sizes,
    rotation_blocks,
)
from studio.adapters.safetensors_header import Header
from studio.errors import BadInput

# A layer's tensors: their keys in this file, by the names ("leaves") that Studio's own files use.
Leaves = dict[str, str]

# How programs end the key of a low-rank factor. leaf: lora_A or lora_B, side: down or up.
ENDINGS = (
    ".{leaf}.weight",
    ".{leaf}.default.weight",
    ".lora_{side}.weight",
    ".lora.{side}.weight",
    "_lora.{side}.weight",
    ".lora_linear_layer.{side}.weight",
)
# Endings that all programs share.
PLAIN = """
    lora_mid.weight lora_magnitude_vector dora_scale alpha diff diff_b
    sparse_gaps sparse_value sparse_shape
    hada_w1_a hada_w1_b hada_w2_a hada_w2_b hada_t1 hada_t2
    oft_blocks rescale oft_R.scaled_oft rotation_out rotation_in rotation_out_shared
    rotation_in_shared
    lokr_w1 lokr_w1_a lokr_w1_b lokr_w2 lokr_w2_a lokr_w2_b lokr_t2 lokr_rows_swapped
"""
LEAVES = {f".{leaf}": leaf for leaf in PLAIN.split()}
LEAVES |= {".w_norm": "diff", ".b_norm": "diff_b"}  # LyCORIS's names for normalisations
LEAVES |= {".oft_R.weight": "oft_R.weight", ".oft_R.default.weight": "oft_R.weight"}
LEAVES |= {".lora_B.bias": "lora_B.bias", ".lora_B.default.bias": "lora_B.bias"}
LEAVES |= {
    ending.format(leaf=leaf, side=side): f"{leaf}.weight"
    for leaf, side in (("lora_A", "down"), ("lora_B", "up"))
    for ending in ENDINGS
}
LEAVES |= {f"{start}.alpha": "alpha" for start in (".lora", "_lora", ".lora_linear_layer")}
LEAVES |= {
    f".lora_magnitude_vector{end}": "lora_magnitude_vector"
    for end in (".weight", ".default", ".default.weight")
}
ENDING = re.compile("|".join(re.escape(e) + "$" for e in sorted(LEAVES, key=len, reverse=True)))

# The tensors of each form, their shapes, and the shape of the weight that they change. A letter is
# a dimension, and equal letters of a form are equal sizes. "ab" is the product of a and b, "*" is
# two more dimensions, k and l, or none, and "1" is any number of dimensions of size 1. The weight
# is "" where the tensors store its shape (sparse) or show one side of it at most.
LOKR_LEFT = ({"lokr_w1": "a c"}, {"lokr_w1_a": "a r", "lokr_w1_b": "r c"})
LOKR_RIGHT = (
    {"lokr_w2": "b d *"},
    {"lokr_w2_a": "b s", "lokr_w2_b": "s d *"},
    {"lokr_t2": "s t k l", "lokr_w2_a": "s b", "lokr_w2_b": "t d"},
)
Form = tuple[str, dict[str, str], str]
FORMS: tuple[Form, ...] = (
    ("lora", {"lora_A.weight": "r i *", "lora_B.weight": "o r 1"}, "o i *"),
    (
        "lora",
        {"lora_A.weight": "s i 1", "lora_mid.weight": "r s k l", "lora_B.weight": "o r 1"},
        "o i *",
    ),
    (
        "loha",
        {"hada_w1_a": "o r", "hada_w1_b": "r i", "hada_w2_a": "o s", "hada_w2_b": "s i"},
        "o i",
    ),
    (
        "loha",
        {"hada_t1": "r s k l", "hada_w1_a": "r o", "hada_w1_b": "s i"}
        | {"hada_t2": "t u k l", "hada_w2_a": "t o", "hada_w2_b": "u i"},
        "o i *",
    ),
    *(("lokr", left | right, "ab cd *") for left in LOKR_LEFT for right in LOKR_RIGHT),
    ("diff", {"diff": "o i *"}, "o i *"),
    ("diff", {"diff": "o"}, "o"),  # of a normalisation
    ("bias", {"diff_b": "o"}, ""),
    ("oft", {"oft_R.weight": "k m"}, ""),
    ("oft", {"oft_R.weight": "k m", "oft_R.scaled_oft": "1"}, ""),
    ("oft", {"oft_blocks": "k b b"}, ""),
    ("oft", {"oft_blocks": "k b b", "alpha": "1"}, ""),
    ("oft", {"oft_blocks": "k b b", "rescale": "o 1"}, ""),
    ("oft", {"oft_blocks": "k b b", "rescale": "o 1", "alpha": "1"}, ""),
    *(("oft", {f"rotation_{side}": "k b b"}, "") for side in ("out", "in")),
    *(("oft", {f"rotation_{side}_shared": "k b b"}, "") for side in ("out", "in")),
    ("sparse", {"sparse_gaps": "g", "sparse_value": "n", "sparse_shape": "m"}, ""),
)
# The form of DiffuseKronA's own program, with the names of LoRA's tensors.
KRONA: Form = ("krona", {"lora_A.weight": "c a", "lora_B.weight": "b d"}, "ab cd")
# Names that only SDXL's adapters have.
SDXL_KEY = re.compile(r"lora_te[12]_|lora_unet_(input|middle|output)_block")
SDXL_LAYER = re.compile(
    r"text_encoder_2\.|unet\.add_embedding|unet\.up_blocks\.0\.attentions"
    r"|.*\.transformer_blocks\.[1-9]"
)
# The family, by the number of inputs of a layer that reads text embeddings.
WIDTHS = {
    "unet": {768: "sd1", 1024: "sd2", 2048: "sdxl"},
    "text_encoder": {1024: "sd2"},
    "text_encoder_2": {},
}
# The tensors that may come in addition to those of a form.
DORA = {"dora_scale", "lora_magnitude_vector"}
BESIDE: dict[str, set[str]] = {
    "lora": {"alpha", "diff_b", "lora_B.bias"} | DORA,
    "loha": {"alpha", "diff_b"} | DORA,
    "lokr": {"alpha", "diff_b", "lokr_rows_swapped"} | DORA,
    "diff": {"alpha", "diff_b"} | DORA,
    "krona": set(),
    "oft": set(),
    "bias": set(),
    "sparse": set(),
}
EXTRAS = set[str]().union(*BESIDE.values())


@dataclass(frozen=True)
class Contents:
    """What an adapter's file holds.

    layers: the keys of each layer's tensors. forms: each layer's form, one of FORMS or "krona".
    weights: the shape of the weight that each layer changes, perhaps flattened to a matrix. It is
    () where FORMS has none.
    rotations: the blocks of each layer of the form "oft".
    family: shown by names and widths; "" where they leave it open.
    embeddings: the keys of learned words.
    configs: peft's configurations by component ("" for all), where the file has any.
    """

    layers: dict[str, Leaves]
    forms: dict[str, str]
    weights: dict[str, Shape]
    rotations: dict[str, Blocks]
    family: str
    embeddings: Rows = field(default_factory=dict)
    configs: dict[str, PeftConfig] = field(default_factory=dict)


def survey(header: Header, path: Path) -> Contents:
    """Assign every tensor of a file to a layer, and check the shapes and dtypes of each layer.

    Raises BadInput for tensors that belong to no known layer or form, naming the first of them, and
    for weights larger than those of any base.
    """
    layers: dict[str, Leaves] = {}
    unknown: list[str] = []
    rows = bundled_embeddings(header, path) or lone_embedding(header, path)
    embedding_keys = {key for encoders in rows.values() for key in encoders.values()}
    for key in sorted(header.shapes.keys() - embedding_keys):
        layer, leaf = _layer_and_leaf(key)
        if layer is None or leaf in layers.get(layer, {}):
            unknown.append(key)
        else:
            layers.setdefault(layer, {})[leaf] = key
    if unknown or not (layers or rows):
        refuse_other_changes(path)
        raise BadInput(f"{path} {_unknown(unknown, layers, header)}")
    if stated := stated_model(header.metadata):
        raise BadInput(f"{path} is for another model, as its metadata says: {stated}")
    krona = bool(layers) and _from_diffusekrona(layers, header.shapes)
    forms, weights = {}, {}
    for layer, leaves in layers.items():
        shapes = {leaf: header.shapes[key] for leaf, key in leaves.items()}
        forms[layer], weights[layer] = _form(tuple(shapes.items()), krona=krona)
        if not forms[layer]:
            known = ", ".join(f"{leaf} {list(shape)}" for leaf, shape in shapes.items())
            butterflies = len(shapes.get("oft_blocks", ())) == 4
            raise BadInput(
                f"{path} is a BOFT adapter, which Studio doesn't read: {layer} has {known}"
                if butterflies
                else f"{path} is damaged, or of a form that Studio doesn't read: the tensors of "
                f"{layer} do not fit: {known}"
            )
        check_dtypes(leaves, header, path)
        check_cores(layer, shapes, weights[layer], path)
    check_sizes(weights, path)
    for encoders in rows.values():
        check_dtypes(encoders, header, path)
    configs = read_configs(header, path)
    rotations = {
        layer: _rotation(layer, leaves, configs, header, path)
        for layer, leaves in layers.items()
        if forms[layer] == "oft"
    }
    family = _family_of_layers(layers, weights) or guess_family(rows, header)
    return Contents(layers, forms, weights, rotations, family, rows, configs)


def _rotation(
    layer: str, leaves: Leaves, configs: Mapping[str, PeftConfig], header: Header, path: Path
) -> Blocks:
    shapes = {leaf: header.shapes[key] for leaf, key in leaves.items()}
    share = config_of(layer, configs).block_share
    try:
        blocks = rotation_blocks(shapes, block_share=share)
    except ValueError as error:
        raise BadInput(f"{path} is damaged: {layer} {error}") from error
    check_size(layer, (blocks.count, blocks.size, blocks.size), path)
    return blocks


def _unknown(keys: Sequence[str], layers: Mapping[str, Leaves], header: Header) -> str:
    """What a file with unknown tensors is, as the end of a message.

    keys: the unknown tensors. layers: the known ones.
    """
    if not keys:
        return "holds no tensors"
    names = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
    what, stated = name_foreign_file(keys), stated_model(header.metadata)
    says = f" (its metadata says {stated})" if stated else ""
    # Only known layers of the UNet show that the file is for Stable Diffusion: other models have
    # the same text encoders. An alpha shows nothing: unknown kinds of adapters have alphas too.
    ours = any(
        name[:5] == "unet." and leaves.keys() != {"alpha"} for name, leaves in layers.items()
    )
    if ours:
        return (
            f"holds {len(keys)} of {len(header.shapes)} tensors that Studio cannot place on a "
            f"Stable Diffusion model{f', as of {what}' if what else ''}{says}: {names}"
        )
    return f"is {what or 'no adapter that Studio knows'}{says}: its tensors are {names}"


# Cached, because all adapters of a base have the same few thousand keys and shapes.
@lru_cache(maxsize=2**14)
def _layer_and_leaf(key: str) -> tuple[str | None, str]:
    """The layer and the leaf that a key stands for; the layer is None where it is not known."""
    ending = ENDING.search(key)
    return (layer_name(key[: ending.start()]), LEAVES[ending[0]]) if ending else (None, "")


@lru_cache(maxsize=2**10)
def _form(shapes: tuple[tuple[str, Shape], ...], *, krona: bool) -> tuple[str, Shape]:
    """The form that has these tensors, and the shape of the weight that they change.

    The form is "" if a tensor is missing, left over or does not fit. krona: whether it is KRONA.
    """
    all_of = dict(shapes)
    biases = [all_of[leaf] for leaf in ("diff_b", "lora_B.bias") if leaf in all_of]
    if (
        math.prod(all_of.get("alpha", ())) != 1
        or len(biases) > 1
        or any(len(bias) != 1 for bias in biases)
    ):
        return "", ()
    for form, pattern, weight in (KRONA,) if krona else FORMS:
        own = {leaf: shape for leaf, shape in shapes if leaf not in BESIDE[form]}
        if own.keys() == pattern.keys() and (sides := _sides(own, pattern)):
            words = weight.replace("*", "k l" if "k" in sides else "").split()
            return form, tuple(math.prod(sides[letter] for letter in word) for word in words)
    return "", ()


def _sides(shapes: Mapping[str, Shape], pattern: Mapping[str, str]) -> dict[str, int]:
    """The size of each letter in a pattern of FORMS; empty where the shapes don't match it."""
    sides: dict[str, int] = {}
    for leaf, shape in shapes.items():
        letters = pattern[leaf].split()
        last = letters.pop() if letters[-1] in "*1" else ""
        if last == "*" and len(shape) == len(letters) + 2:
            letters += ["k", "l"]
        rest = shape[len(letters) :]
        if len(shape) < len(letters) or (math.prod(rest) != 1 if last == "1" else rest):
            return {}
        if any(sides.setdefault(x, side) != side for x, side in zip(letters, shape, strict=False)):
            return {}
    # Only g and n, the entries of a sparse change, may be none.
    sound = all(side > 0 for letter, side in sides.items() if letter not in "gn")
    return sides if sound else {}


def _from_diffusekrona(layers: Mapping[str, Leaves], shapes: Mapping[str, Shape]) -> bool:
    """Whether DiffuseKronA's own program wrote the file: LoRA's old names, but other shapes."""
    pairs = []
    for leaves in layers.values():
        if leaves.keys() != {"lora_A.weight", "lora_B.weight"}:
            return False
        if not leaves["lora_A.weight"].endswith("_lora.down.weight"):
            return False
        pairs.append((shapes[leaves["lora_A.weight"]], shapes[leaves["lora_B.weight"]]))
    matrices = all(len(down) == len(up) == 2 for down, up in pairs)
    return matrices and any(down[0] != up[1] for down, up in pairs)


def _family_of_layers(layers: Mapping[str, Leaves], weights: Mapping[str, Shape]) -> str:
    """The family that names, prefixes and widths show; "" where they leave it open."""
    keys = [key for leaves in layers.values() for key in leaves.values()]
    if any(map(SDXL_KEY.match, keys)) or any(map(SDXL_LAYER.match, layers)):
        return "sdxl"
    for layer, shape in weights.items():
        if layer.endswith(("attn2.to_k", "attn2.to_v", "self_attn.q_proj")):
            width = shape[1] if len(shape) > 1 else 0
            if family := WIDTHS[layer.partition(".")[0]].get(width):
                return family
    # kohya's files for SD 2 have this prefix too, but their width of 1024 was found above.
    return "sd1" if any(key.startswith("lora_te_") for key in keys) else ""
