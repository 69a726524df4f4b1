"""Turn an adapter into the tensors and metadata of another program's file.

Sources: diffusers (loaders/lora_base.py), kohya's sd-scripts (networks/lora.py, sai_model_spec),
LyCORIS, peft (utils/save_and_load.py) and OneTrainer (modules/module/oft_utils.py). What a format
cannot hold is refused: nobody would notice a missing layer in a picture.
"""

from collections.abc import Mapping
from statistics import mode

import torch
from torch import Tensor

from studio.adapters.adapter import Adapter
from studio.adapters.delta import BiasOnly, Cayley, Delta, Dense, Kron, LowRank, Rotation, Sparse
from studio.adapters.formats.metadata import adapter_metadata, trained_clip_skip
from studio.adapters.formats.names import PEFT_PREFIX, kohya_name
from studio.adapters.formats.textual_inversion import BUNDLED, NAMES, TOKEN
from studio.adapters.formats.write import (
    component_config,
    embedding_tensors,
    lora_metadata,
    own_tensors,
)
from studio.errors import BadInput

SERIES = 5  # terms of the series by which OneTrainer computes rotations
KERNELS = ("conv", "conv1", "conv2")  # last parts of the names of 3 x 3 convolutions
KOHYA_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
# A file's tensors and its metadata.
FileContents = tuple[dict[str, Tensor], dict[str, str]]


def to_diffusers(adapter: Adapter) -> FileContents:
    """A file for `load_lora_weights` of diffusers.

    Raises BadInput where a delta is not low-rank, or has DoRA in a way that diffusers has not.
    """
    deltas = _all_low_rank(adapter, "diffusers")
    for component in {layer.partition(".")[0] for layer in deltas}:
        own = [delta for layer, delta in deltas.items() if layer.startswith(f"{component}.")]
        kinds = {delta.magnitude is not None for delta in own}
        if len(kinds) > 1 or any(d.magnitude is not None and d.magnitude.ndim > 1 for d in own):
            raise BadInput(
                "diffusers reads DoRA only in all layers of a model, with a magnitude per output; "
                "this adapter has it in another way: convert it to lycoris instead"
            )
        if any(d.magnitude is not None and d.up_bias is not None for d in own):
            raise BadInput(
                "diffusers reads no DoRA that changes biases too: convert it to lycoris instead"
            )
    metadata = adapter_metadata(adapter) | {"lora_adapter_metadata": lora_metadata(deltas)}
    return own_tensors(deltas) | embedding_tensors(adapter.embeddings), metadata


def to_kohya(adapter: Adapter) -> FileContents:
    """A file with kohya's names and alphas.

    Raises BadInput where a delta is not low-rank, or changes a bias.
    """
    low = _all_low_rank(adapter, "kohya")
    if biased := [layer for layer, delta in low.items() if delta.up_bias is not None]:
        raise BadInput(
            f"kohya files hold no changes of biases, as {biased[0]} has: convert it to lycoris"
        )
    return _with_kohya_names(adapter, "networks.lora")


def to_lycoris(adapter: Adapter) -> FileContents:
    """A file with kohya's names, and LyCORIS's tensors for forms that are not low-rank.

    It can hold every form but OFT. Raises BadInput for OFT.
    """
    return _with_kohya_names(adapter, "lycoris.kohya")


def to_onetrainer(adapter: Adapter) -> FileContents:
    """A file with kohya's names: low-rank changes as in kohya's, OFT as triangles of skew matrices.

    Raises BadInput for other forms, and for rotations that OneTrainer's series does not give.
    """
    if not any(isinstance(delta, Rotation) for delta in adapter.deltas.values()):
        return to_kohya(adapter)
    deltas = _all_cayley(adapter, "onetrainer")
    if any(delta.terms != SERIES or delta.shared for delta in deltas.values()):
        raise BadInput(
            f"OneTrainer computes rotations by a series of {SERIES} terms, and this adapter's are "
            f"computed in another way: train it with terms {SERIES}, or convert it to peft"
        )
    tensors = {
        f"{kohya_name(layer, _family(adapter))}.oft_R.weight": delta.upper.detach()
        for layer, delta in deltas.items()
    }
    return tensors | embedding_tensors(adapter.embeddings, BUNDLED), adapter_metadata(adapter)


def to_peft(adapter: Adapter) -> dict[str, tuple[dict[str, Tensor], dict[str, object]]]:
    """peft's `adapter_model.safetensors` and `adapter_config.json` of each component.

    For `PeftModel.from_pretrained`. Raises BadInput where a delta is neither low-rank nor OFT, and
    for learned words, which peft's files don't hold.
    """
    if adapter.embeddings:
        raise BadInput("peft's files hold no new words: convert those to embedding")
    if any(isinstance(delta, Rotation) for delta in adapter.deltas.values()):
        deltas: Mapping[str, Delta] = _all_cayley(adapter, "peft")
    else:
        deltas = _all_low_rank(adapter, "peft")
    folders = {}
    for component in dict.fromkeys(layer.partition(".")[0] for layer in deltas):
        prefix = f"{component}."
        own = {k.removeprefix(prefix): d for k, d in deltas.items() if k.startswith(prefix)}
        tensors = {
            # In transformers 5, CLIP's layers lie directly below the model, not in `text_model`.
            f"{PEFT_PREFIX}{key.removeprefix('text_model.')}": tensor
            for key, tensor in own_tensors(own).items()
        }
        folders[component] = tensors, {"peft_type": "LORA"} | component_config(component, deltas)
    return folders


CONVERTERS = {
    "kohya": to_kohya,
    "diffusers": to_diffusers,
    "lycoris": to_lycoris,
    "onetrainer": to_onetrainer,
}


def to_inversions(adapter: Adapter) -> dict[str, FileContents]:
    """The file of a textual inversion for each token.

    For one text encoder the tensor is named by its token: diffusers' `load_textual_inversion` takes
    the token from there, and other programs ignore the name. For SDXL the tensors are `clip_l` and
    `clip_g`. Raises BadInput where the adapter has no embedding.
    """
    if not adapter.embeddings:
        raise BadInput("the adapter has no embedding: it was trained without new_tokens")
    metadata = adapter_metadata(adapter)
    if "modelspec.architecture" in metadata:
        architecture = metadata["modelspec.architecture"].removesuffix("/lora")
        metadata["modelspec.architecture"] = f"{architecture}/textual-inversion"
    written = {}
    for token, own in adapter.embeddings.items():
        single = adapter.family != "sdxl" and own.keys() == {"text_encoder"}
        tensors = {token if single else NAMES[name]: rows.detach() for name, rows in own.items()}
        written[token] = tensors, metadata | {TOKEN: token}
    return written


def _all_low_rank(adapter: Adapter, form: str) -> dict[str, LowRank]:
    low = {layer: d for layer, d in adapter.deltas.items() if isinstance(d, LowRank)}
    if len(low) < len(adapter.deltas):
        raise BadInput(
            f"{form} files hold low-rank changes only, and {len(adapter.deltas) - len(low)} of "
            f"this adapter's {len(adapter.deltas)} are of another form: convert it to lycoris"
        )
    return low


def _all_cayley(adapter: Adapter, form: str) -> dict[str, Cayley]:
    rotations = {layer: d for layer, d in adapter.deltas.items() if isinstance(d, Cayley)}
    if len(rotations) < len(adapter.deltas):
        raise BadInput(
            f"{form} files hold only rotations of inputs, as skew matrices, and some of this "
            "adapter's layers change in another way: keep the file that it was read from"
        )
    if kernels := [layer for layer in rotations if layer.rpartition(".")[2] in KERNELS]:
        raise BadInput(
            f"{form} rotates the pixels under a convolution's kernel with its channels, and Studio "
            f"the channels alone, as in {kernels[0]}: train with targets attention"
        )
    return rotations


def _family(adapter: Adapter) -> str:
    if not adapter.family:
        raise BadInput("the adapter's file does not state its base's family: give it (--family)")
    return adapter.family


def _with_kohya_names(adapter: Adapter, module: str) -> FileContents:
    """module: the program's module that reads the file; it goes into the metadata."""
    family = _family(adapter)
    tensors = {
        f"{kohya_name(layer, family)}.{leaf}": tensor.detach()
        for layer, delta in adapter.deltas.items()
        for leaf, tensor in _lycoris_tensors(delta).items()
    }
    return tensors | embedding_tensors(adapter.embeddings, BUNDLED), _metadata(adapter, module)


def _lycoris_tensors(delta: Delta) -> dict[str, Tensor]:
    """A delta's tensors by LyCORIS's names; low-rank ones have kohya's names."""
    match delta:
        case LowRank():
            own = {
                "lora_down.weight": delta.down,
                "lora_up.weight": delta.up,
                "alpha": torch.tensor(delta.scale * delta.rank),
            }
        case Kron(rows_swapped=False):
            own = {k: v for k, v in delta.tensors().items() if k.startswith("lokr_")}
            ranks = [own[k].shape[0] for k in ("lokr_w2_b", "lokr_w1_b") if k in own]
            own["alpha"] = torch.tensor(float(ranks[0] if ranks else 1))
        case Dense() | BiasOnly():
            own = {k: v for k, v in delta.tensors().items() if k.startswith("diff")}
        case Rotation():
            raise BadInput(
                "the adapter rotates weights (OFT), which these files hold in another way: "
                + (
                    "convert it to peft or onetrainer"
                    if isinstance(delta, Cayley)
                    else "keep the file that it was read from"
                )
            )
        case Sparse() | Kron():
            # A change with DoRA would need the base's weight. These two forms have no DoRA here.
            own = {"diff": delta.dense(torch.zeros(delta.shape))}
    if delta.bias is not None:
        own["diff_b"] = delta.bias.detach()
    return own | _dora_scale(delta)


def _dora_scale(delta: Delta) -> dict[str, Tensor]:
    """LyCORIS's magnitude: [out, 1(, 1, 1)], or [1, in(, 1, 1)]."""
    magnitude = delta.magnitude
    if magnitude is None:
        return {}
    if magnitude.ndim == 1:
        magnitude = magnitude.view(-1, *(1 for _ in delta.shape[1:]))
    return {"dora_scale": magnitude.detach()}


def _metadata(adapter: Adapter, module: str) -> dict[str, str]:
    """An adapter's metadata, with kohya's entries added."""
    metadata = adapter_metadata(adapter) | {
        "ss_base_model_version": KOHYA_VERSIONS[_family(adapter)],
        "ss_network_module": module,
        "ss_v2": str(adapter.family == "sd2"),
    }
    if clip_skip := trained_clip_skip(adapter):
        metadata["ss_clip_skip"] = str(clip_skip)
    low = [delta for delta in adapter.deltas.values() if isinstance(delta, LowRank)]
    if low:
        rank = mode(delta.rank for delta in low)
        alpha = mode(delta.scale * delta.rank for delta in low if delta.rank == rank)
        metadata |= {"ss_network_dim": str(rank), "ss_network_alpha": str(alpha)}
    return metadata
