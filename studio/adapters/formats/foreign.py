"""What a file holds that is not for Stable Diffusion 1, 2 or XL, or no adapter: told by its names.

So that a refusal says what somebody has, and not that it is damaged. Sources: the key names of
diffusers' converters (loaders/lora_conversion_utils.py, loaders/single_file_utils.py), ComfyUI's
model_detection.py, and LyCORIS's modules.
"""

import re
from collections.abc import Collection

# The first pattern that any of the keys has in it tells.
OTHER_MODELS = (
    (r"single_transformer_blocks|(double|single)_blocks", "Flux"),
    (r"joint_blocks|add_[kqv]_proj|lora_te3_", "Stable Diffusion 3"),
    (r"motion_modules|temporal_transformer", "AnimateDiff (video)"),
    (r"lora_prior|prior_unet", "Stable Cascade"),
    (r"(^|[._])blocks[._]\d+[._](self|cross)_attn", "Wan (video)"),
    (r"(^|[._])transformer_blocks[._]\d+[._]attn2?.*caption|^patchify_proj", "LTX"),
    (r"^transformer\.|diffusion_model\.transformer_blocks", "a diffusion transformer"),
)
# Adapters that are not read, by the end of a key.
OTHER_ADAPTERS = (
    (r"\.on_input$|\.ia3_l$", "an IA3 adapter"),
    (r"\.(oft|boft)_\w+(\.\w+)?$", "an OFT adapter in names that are not known"),
    (r"\.[ab][12](\.weight)?$|\.bm\.weight$", "a GLoRA adapter"),
    (r"\.lambda_layer$|\.[pq]_layer\.weight$", "a T-LoRA adapter"),
    (r"vera_lambda_[bd]", "a VeRA adapter"),
    (r"\.(set_weight|reshape_weight)$", "a patch that replaces whole weights"),
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
    """What a file with these tensors is, as "a LoRA of Flux, ..."; "" where it is not known."""
    adapter = any(map(ADAPTER.search, keys))
    if model := _first(OTHER_MODELS, keys):
        what = "a LoRA" if adapter else "a part"
        return f"{what} of {model}, not of Stable Diffusion 1, 2 or XL"
    if kind := _first(OTHER_ADAPTERS, keys):
        return f"{kind}, which Studio doesn't read"
    return "" if adapter else _first(PARTS, keys)


def _first(patterns: tuple[tuple[str, str], ...], keys: Collection[str]) -> str:
    for pattern, what in patterns:
        if any(re.search(pattern, key) for key in keys):
            return what
    return ""
