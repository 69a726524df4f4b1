"""Find learned embeddings in files: beside an adapter's layers, or alone as textual inversion.

Names beside layers: `bundle_emb.TOKEN.clip_l` and `.clip_g` for SDXL (A1111's pull request 13568;
OneTrainer writes the same, and `clip_l` alone for SD 1.x), and `bundle_emb.TOKEN.string_to_param.*`
as A1111 bundles its own files. Studio's own files say `lora_bundle_emb.`, because diffusers'
`load_lora_weights` refuses a file with a name that lacks "lora". Files converted to kohya's names
say `bundle_emb.`, for the tools that read bundles.

Names in a file of its own: `clip_l` and `clip_g` (kohya, diffusers' advanced scripts), `emb_params`
(kohya) and `emp_params` (OneTrainer), where the file's name is the token; or one tensor named by
its token (diffusers' learned_embeds). A1111's own files are pickles and refused as such.
"""

import re
from pathlib import Path

from studio.adapters.safetensors_header import Header
from studio.errors import BadInput

# The keys of tensors of embeddings, by token and text encoder.
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
MOST_ROWS = 75  # vectors that fit into a prompt of CLIP's length


def bundled_embeddings(header: Header, path: Path) -> Rows:
    """The embeddings beside an adapter's layers. Raises BadInput for those that are not read."""
    embeddings: Rows = {}
    for key in sorted(header.shapes):
        if not key.startswith((f"{OWN}.", f"{BUNDLED}.")):
            continue
        parts = KEY.fullmatch(key)
        if parts is None:
            raise BadInput(
                f"{path} holds {key}, which is not an embedding that a text encoder reads (those "
                f"end in {', '.join(LEAVES)}): train or convert it without"
            )
        encoders = embeddings.setdefault(parts[2], {})
        encoder = LEAVES.get(parts[3], "text_encoder")
        if encoder in encoders or not _are_rows(header, key):
            raise BadInput(f"{path} is damaged: {key} {list(header.shapes[key])} is no embedding")
        encoders[encoder] = key
    return embeddings


def lone_embedding(header: Header, path: Path) -> Rows:
    """The embedding of a textual inversion's file; empty for another kind of file."""
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
    # diffusers names the tensor by its token; a name with dots is that of some model's layer.
    return {} if re.search(r"[.\s]", key) or not key else {key: {"text_encoder": key}}


def guess_family(rows: Rows, header: Header) -> str:
    """The family that the embeddings' widths show; "" where they leave it open."""
    for encoders in rows.values():
        if "text_encoder_2" in encoders:
            return "sdxl"
        return WIDTHS.get(header.shapes[encoders["text_encoder"]][-1], "")
    return ""


def _are_rows(header: Header, key: str) -> bool:
    """Whether the tensor can hold embeddings: [n, width], or [width] for one."""
    shape = header.shapes[key]
    few = len(shape) == 1 or (len(shape) == 2 and 1 <= shape[0] <= MOST_ROWS)
    return few and shape[-1] > 0
