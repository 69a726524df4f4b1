"""Learned embeddings in files: beside an adapter's layers, or alone as textual inversion.

Beside: `bundle_emb.TOKEN.clip_l` and `.clip_g` for SDXL (A1111's pull request 13568; OneTrainer
writes the same, and SD 1.x as `clip_l` alone), `bundle_emb.TOKEN.string_to_param.*` as A1111
bundles its own files. diffusers refuses a file that has a name without "lora" in it, so Studio's
own file, which `load_lora_weights` is to take, says `lora_bundle_emb.` instead; converted to
kohya's names, for the tools that read bundles, it says `bundle_emb.`.

Alone: `clip_l` and `clip_g` (kohya, diffusers' advanced scripts), whose token is the file's name;
`emb_params` (kohya) and `emp_params` (OneTrainer), likewise; or one tensor named by its token
(diffusers' learned_embeds). A1111's own files are pickles and refused as such.
"""

import re
from pathlib import Path

from studio.adapters.safetensors_header import Header
from studio.errors import BadInput

# By token and text encoder, the key of a tensor of rows.
Rows = dict[str, dict[str, str]]

OWN, BUNDLED = "lora_bundle_emb", "bundle_emb"
NAMES = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
TOKEN = "studio.token"  # in the metadata of a file that holds one embedding alone
LEAVES = {
    "clip_l": "text_encoder",
    "clip_h": "text_encoder",  # SD 2's, as ComfyUI calls it
    "clip_g": "text_encoder_2",
    "emb_params": "text_encoder",
    "emp_params": "text_encoder",
}
KEY = re.compile(rf"({OWN}|{BUNDLED})\.(.+)\.({'|'.join(LEAVES)}|string_to_param\.[^.]*)")
WIDTHS = {768: "sd1", 1024: "sd2"}
MOST_ROWS = 75  # that a prompt of CLIP's length has room for


def bundled_embeddings(header: Header, path: Path) -> Rows:
    """The embeddings beside an adapter's layers. Raises BadInput for what is not read of them."""
    found: Rows = {}
    for key in sorted(header.shapes):
        if not key.startswith((f"{OWN}.", f"{BUNDLED}.")):
            continue
        parts = KEY.fullmatch(key)
        if parts is None:
            raise BadInput(
                f"{path} holds {key}, which is not an embedding that a text encoder reads (those "
                f"end in {', '.join(LEAVES)}): train or convert it without"
            )
        encoders = found.setdefault(parts[2], {})
        encoder = LEAVES.get(parts[3], "text_encoder")
        if encoder in encoders or not _are_rows(header, key):
            raise BadInput(f"{path} is damaged: {key} {list(header.shapes[key])} is no embedding")
        encoders[encoder] = key
    return found


def lone_embedding(header: Header, path: Path) -> Rows:
    """The embedding that a file holds alone; nothing where it is another kind of file."""
    keys = list(header.shapes)
    if not keys or not all(_are_rows(header, key) for key in keys):
        return {}
    name = header.metadata.get(TOKEN, path.stem)
    encoders = {LEAVES[key]: key for key in keys if key in LEAVES}
    if len(encoders) == len(keys):
        return {name: encoders}
    if len(keys) > 1:
        return {}
    (key,) = keys
    if key == "*" or key.startswith("string_to_param."):
        return {name: {"text_encoder": key}}
    # diffusers names the tensor by its token; a name with dots is a layer's of some model.
    return {} if re.search(r"[.\s]", key) or not key else {key: {"text_encoder": key}}


def guess_family(rows: Rows, header: Header) -> str:
    """The family that the embeddings' widths show; "" where they leave it open."""
    for encoders in rows.values():
        if "text_encoder_2" in encoders:
            return "sdxl"
        return WIDTHS.get(header.shapes[encoders["text_encoder"]][-1], "")
    return ""


def _are_rows(header: Header, key: str) -> bool:
    """Whether it can be [n, width], or [width] for one."""
    shape = header.shapes[key]
    few = len(shape) == 1 or (len(shape) == 2 and 1 <= shape[0] <= MOST_ROWS)
    return few and shape[-1] > 0
