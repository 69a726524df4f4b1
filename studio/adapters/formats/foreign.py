"""Recognise files of other models, and files that are no adapter, by the names of their tensors.

So a refusal can say what the file is, instead of calling it damaged. Sources: the key names of
diffusers' converters (loaders/lora_conversion_utils.py, loaders/single_file_utils.py), ComfyUI's
model_detection.py, and LyCORIS's modules.
"""

import re
from collections.abc import Collection, Mapping

OURS = "Stable Diffusion 1, 2 or XL"
# The first pattern that occurs in any of the keys decides.
OTHER_MODELS = (
    (r"single_transformer_blocks|(double|single)_blocks", "Flux or a model built like it"),
    (r"joint_blocks|add_[kqv]_proj|lora_te3_", "Stable Diffusion 3 or a model built like it"),
    (r"motion_modules|temporal_transformer", "AnimateDiff or another video model"),
    (r"lora_prior|prior_unet", "Stable Cascade"),
    (r"(^|[._])blocks[._]\d+[._](self|cross)_attn", "Wan (video) or a model built like it"),
    (r"(^|[._])layers[._]\d+[._](attention|feed_forward)[._]", "Lumina or a model built like it"),
    (r"(^|\.)patchify_proj|caption_projection", "LTX (video) or PixArt"),
    (r"(^|\.)model\.layers\.\d+\.", "a language model"),
    (
        r"^transformer\.|^(diffusion_model\.|base_model\.model\.|lora_unet_|lora_transformer_)?transformer_blocks[._]",
        "a diffusion transformer",
    ),
)
# The names of other models in `modelspec.architecture` and `ss_base_model_version`.
STATED = re.compile(
    r"(flux|sd_?3|stable-diffusion-3|hunyuan|wan|chroma|lumina|qwen|z-?image|pixart|aura|stable-cascade)",
    re.IGNORECASE,
)
# Adapters that Studio doesn't read, by a pattern of their keys.
OTHER_ADAPTERS = (
    (r"\.on_input$|\.ia3_l$", "an IA3 adapter"),
    (r"\.boft_[Rs]$", "a BOFT adapter"),
    (r"\.oft_\w+(\.\w+)?$", "an OFT adapter in names that are not known"),
    (r"\.[ab][12](\.weight)?$|\.bm\.weight$", "a GLoRA adapter"),
    (r"\.lambda_layer$|\.[pq]_layer\.weight$", "a T-LoRA adapter"),
    (r"vera_lambda_[bd]", "a VeRA adapter"),
    (r"\.lora_E$", "an AdaLoRA adapter"),
    (r"\.(set_weight|reshape_weight)$", "a patch that replaces whole weights"),
    (r"^lora_controlnet$", "a Control-LoRA, a ControlNet in small"),
)
PARTS = (
    (r"^control_model\.|^controlnet_|zero_convs|input_hint_block|^lllite_", "a ControlNet"),
    (r"^ip_adapter|^image_proj\.", "an IP-Adapter"),
    (r"^adapter\.body|^body\.\d+\.(block1|in_conv)", "a T2I-Adapter"),
    (
        r"^model\.diffusion_model\.|^cond_stage_model\.|^conditioner\.",
        "a whole checkpoint, which is given as the base",
    ),
    (r"^first_stage_model\.|^(encoder|decoder)\.(down|up|mid|conv_in)", "a VAE"),
    (r"^(down|up)_blocks\.\d.*\.(weight|bias)$|^mid_block\..*\.(weight|bias)$", "a whole UNet"),
    (r"^text_model\.(embeddings|encoder)\..*\.(weight|bias)$", "a whole text encoder"),
)
ADAPTER = re.compile(r"lora|lokr|hada_|oft_|\.diff(_b)?$|dora_scale")


def name_foreign_file(keys: Collection[str]) -> str:
    """What a file with these tensors is, such as "a LoRA of Flux, ..."; "" where it is unknown."""
    adapter = any(map(ADAPTER.search, keys))
    if model := _first(OTHER_MODELS, keys):
        what = "a LoRA" if any("lora" in key for key in keys) else "an adapter"
        return f"{what if adapter else 'a part'} of {model}, not of {OURS}"
    if kind := _first(OTHER_ADAPTERS, keys):
        return f"{kind}, which Studio doesn't read"
    return f"an adapter whose names are not those of {OURS}" if adapter else _first(PARTS, keys)


def stated_model(metadata: Mapping[str, str]) -> str:
    """The other model that the metadata names, in its own words; "" where it names none."""
    for name in ("modelspec.architecture", "ss_base_model_version"):
        if STATED.match(stated := metadata.get(name, "")):
            return stated[:40]
    return ""


def _first(patterns: tuple[tuple[str, str], ...], keys: Collection[str]) -> str:
    for pattern, what in patterns:
        if any(re.search(pattern, key) for key in keys):
            return what
    return ""
