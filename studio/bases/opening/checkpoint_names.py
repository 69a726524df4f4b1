"""Bring unusual names of weights in checkpoints of the original layout to the usual ones."""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")
VAE_PREFIXES = ("first_stage_model.", "vae.")
# CLIP without its level `text_model`: NovelAI's first model, and files of newer transformers.
FLAT_CLIP = re.compile(
    r"^(cond_stage_model|conditioner\.embedders\.0)\.transformer\."
    r"(?=(embeddings|encoder|final_layer_norm)\.)"
)
# Names of the VAE's attention in diffusers, now and before its release 0.18: the original names.
ATTENTION_NAMES = {
    "group_norm": "norm",
    "to_q": "q",
    "query": "q",
    "to_k": "k",
    "key": "k",
    "to_v": "v",
    "value": "v",
    "to_out.0": "proj_out",
    "proj_attn": "proj_out",
}
VAE_ATTENTION = re.compile(
    rf"(?<=\.mid\.attn_1\.)({'|'.join(map(re.escape, ATTENTION_NAMES))})(?=\.(weight|bias)$)"
)


def with_usual_names(weights: Mapping[str, T]) -> dict[str, T]:
    """The same weights under the names that diffusers' single-file code knows."""
    return {_usual_name(name): weight for name, weight in weights.items()}


def holds_vae(names: Iterable[str]) -> bool:
    """Whether a checkpoint has a VAE."""
    return any(name.startswith(VAE_PREFIXES) for name in names)


def _usual_name(name: str) -> str:
    name = FLAT_CLIP.sub(r"\g<0>text_model.", name)
    return VAE_ATTENTION.sub(lambda found: ATTENTION_NAMES[found[1]], name)
