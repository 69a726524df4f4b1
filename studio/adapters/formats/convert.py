"""An adapter as the tensors and metadata of another program's file.

Sources: diffusers (loaders/lora_base.py), kohya's sd-scripts (networks/lora.py, sai_model_spec)
and LyCORIS. What a format cannot hold is refused: nobody would notice a missing layer in a picture.
"""

from statistics import mode

import torch
from torch import Tensor

from studio.adapters.adapter import Adapter
from studio.adapters.delta import BiasOnly, Delta, Dense, Kron, LowRank, Rotation, Sparse
from studio.adapters.formats.metadata import adapter_metadata, trained_clip_skip
from studio.adapters.formats.names import kohya_name
from studio.adapters.formats.textual_inversion import BUNDLED, NAMES, TOKEN
from studio.adapters.formats.write import embedding_tensors, lora_metadata, own_tensors
from studio.errors import BadInput

KOHYA_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
# The tensors and the metadata of a file.
FileContents = tuple[dict[str, Tensor], dict[str, str]]


def to_diffusers(adapter: Adapter) -> FileContents:
    """For `load_lora_weights` of diffusers. Raises BadInput where a delta is not low-rank."""
    deltas = _all_low_rank(adapter, "diffusers")
    for component in {layer.partition(".")[0] for layer in deltas}:
        own = [delta for layer, delta in deltas.items() if layer.startswith(f"{component}.")]
        kinds = {delta.magnitude is not None for delta in own}
        if len(kinds) > 1 or any(d.magnitude is not None and d.magnitude.ndim > 1 for d in own):
            raise BadInput(
                "diffusers knows DoRA for all layers of a model or none, by output: "
                "this adapter has it otherwise; convert it to lycoris instead"
            )
        if any(d.magnitude is not None and d.up_bias is not None for d in own):
            raise BadInput(
                "diffusers knows no DoRA that changes biases too: convert it to lycoris instead"
            )
    metadata = adapter_metadata(adapter) | {"lora_adapter_metadata": lora_metadata(deltas)}
    return own_tensors(deltas) | embedding_tensors(adapter.embeddings), metadata


def to_kohya(adapter: Adapter) -> FileContents:
    """kohya's names and scalars. Raises BadInput where a delta is not low-rank."""
    low = _all_low_rank(adapter, "kohya")
    if biased := [layer for layer, delta in low.items() if delta.up_bias is not None]:
        raise BadInput(
            f"kohya files hold no change of a bias, as of {biased[0]}: convert it to lycoris"
        )
    return _with_kohya_names(adapter, "networks.lora")


def to_lycoris(adapter: Adapter) -> FileContents:
    """kohya's names, with LyCORIS's tensors for what is not low-rank.

    Any adapter can be held but OFT, for which BadInput is raised.
    """
    return _with_kohya_names(adapter, "lycoris.kohya")


CONVERTERS = {"kohya": to_kohya, "diffusers": to_diffusers, "lycoris": to_lycoris}


def to_inversions(adapter: Adapter) -> dict[str, FileContents]:
    """Each embedding as a textual inversion's file, by its token.

    For one text encoder the tensor is named by the token, which diffusers' `load_textual_inversion`
    takes it from and the others leave aside; for SDXL they are `clip_l` and `clip_g`. Raises
    BadInput where there is no embedding.
    """
    if not adapter.embeddings:
        raise BadInput("the adapter has no embedding: it was trained without new_tokens")
    metadata = adapter_metadata(adapter)
    if "modelspec.architecture" in metadata:
        architecture = metadata["modelspec.architecture"].removesuffix("/lora")
        metadata["modelspec.architecture"] = f"{architecture}/textual-inversion"
    written = {}
    for token, own in adapter.embeddings.items():
        alone = adapter.family != "sdxl" and own.keys() == {"text_encoder"}
        tensors = {token if alone else NAMES[name]: rows.detach() for name, rows in own.items()}
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


def _family(adapter: Adapter) -> str:
    if not adapter.family:
        raise BadInput("the adapter's file does not tell its base's family: give it (--family)")
    return adapter.family


def _with_kohya_names(adapter: Adapter, module: str) -> FileContents:
    """module: the program that reads the file, for its metadata."""
    family = _family(adapter)
    tensors = {
        f"{kohya_name(layer, family)}.{leaf}": tensor.detach()
        for layer, delta in adapter.deltas.items()
        for leaf, tensor in _lycoris_tensors(delta).items()
    }
    return tensors | embedding_tensors(adapter.embeddings, BUNDLED), _metadata(adapter, module)


def _lycoris_tensors(delta: Delta) -> dict[str, Tensor]:
    """A delta's tensors by LyCORIS's names, which are kohya's where it is low-rank."""
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
                "the adapter rotates weights (OFT), which no other tool's files hold as Studio "
                "does: keep the file that it was read from"
            )
        case Sparse() | Kron():
            # DoRA needs the weight, which no one has here; these two forms are without.
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
    """An adapter's metadata, with what kohya's files say beside."""
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
