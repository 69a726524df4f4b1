"""Translate layer names between diffusers' dots, kohya's underscores, and other dialects.

In kohya's names an underscore may stand for a dot or for itself (`to_out_0`,
`transformer_blocks_0`). So such names are split into the words that occur in Stable Diffusion's
module names. For SDXL, kohya uses the names of the authors' UNet (package sgm), which counts blocks
across levels. The table below is for levels of two resnets each: SDXL and the sketch base have
three such levels, SD 1.x and 2.x have four.
"""

import re

WORDS = """
    down_blocks mid_block up_blocks resnets attentions downsamplers upsamplers transformer_blocks
    attn1 attn2 to_q to_k to_v to_out ff net proj proj_in proj_out conv conv1 conv2 conv_in conv_out
    conv_shortcut time_emb_proj time_embedding add_embedding linear_1 linear_2 cond_proj
    text_model encoder layers self_attn q_proj k_proj v_proj out_proj mlp fc1 fc2 text_projection
    norm norm1 norm2 norm3 conv_norm_out layer_norm1 layer_norm2 final_layer_norm
"""
WORD = re.compile(rf"({'|'.join(sorted(WORDS.split(), key=len, reverse=True))}|\d+)(?:_|$)")

PEFT_PREFIX = "base_model.model."  # begins the keys in peft's own files
PEFT_CONFIG = "adapter_config.json"  # peft writes it beside such a file, with the alphas
# Longest first: "text_encoder_2." also starts with "text_encoder".
PREFIXES = {
    "lora_unet_": "unet",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te_": "text_encoder",
    "lycoris_": "unet",
    "oft_unet_": "unet",
    "unet.": "unet",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder.": "text_encoder",
    "diffusion_model.": "unet",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_h.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
}
UNET_STARTS = ("down_blocks", "mid_block", "up_blocks", "conv_", "time_embed", "add_embedding")
UNET_STARTS += ("input_blocks", "middle_block", "output_blocks", "label_emb", "out.")
TEXT_STARTS = ("text_model", "encoder", "text_projection", "final_layer_norm")
# How the names of layers begin in these models. Other models have the same words in another order.
ROOTS = {
    "unet": re.compile(
        r"((down|up)_blocks|mid_block|(time|add)_embedding)\.|conv_(norm_out|in|out)$"
    ),
    "text": re.compile(r"text_model\.(encoder\.|final_layer_norm$)|text_projection$"),
}

LEVELS, RESNETS_PER_LEVEL = 4, 2
SGM_RESNET = {
    "in_layers_0": "norm1",
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_0": "norm2",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}


def _sgm_modules() -> dict[str, str]:
    """diffusers' names of a UNet's modules, by sgm's names."""
    modules = {
        # In SD 1.x and 2.x the first level up has no attentions before its upsampler.
        "output_blocks_2_1_conv": "up_blocks_0_upsamplers_0_conv",
        "input_blocks_0_0": "conv_in",
        "time_embed_0": "time_embedding_linear_1",
        "time_embed_2": "time_embedding_linear_2",
        "label_emb_0_0": "add_embedding_linear_1",
        "label_emb_0_2": "add_embedding_linear_2",
        "out_0": "conv_norm_out",
        "out_2": "conv_out",
        "middle_block_0": "mid_block_resnets_0",
        "middle_block_1": "mid_block_attentions_0",
        "middle_block_2": "mid_block_resnets_1",
    }
    for level in range(LEVELS):
        # sgm counts one block more per level: a downsampler, or on the way up a third resnet.
        first = level * (RESNETS_PER_LEVEL + 1)
        last = first + RESNETS_PER_LEVEL
        for number, kind in enumerate(("resnets", "attentions")):
            for index in range(RESNETS_PER_LEVEL):
                down = f"down_blocks_{level}_{kind}_{index}"
                modules[f"input_blocks_{first + index + 1}_{number}"] = down
            for index in range(RESNETS_PER_LEVEL + 1):
                up = f"up_blocks_{level}_{kind}_{index}"
                modules[f"output_blocks_{first + index}_{number}"] = up
        modules[f"input_blocks_{last + 1}_0_op"] = f"down_blocks_{level}_downsamplers_0_conv"
        modules[f"output_blocks_{last}_2_conv"] = f"up_blocks_{level}_upsamplers_0_conv"
    return modules


SGM = _sgm_modules()


def layer_name(module: str) -> str | None:
    """Studio's name of a layer, from its name in any dialect; None where the name is unknown.

    Studio's name is the component (`unet`, `text_encoder`, `text_encoder_2`) and the module's
    dotted path as diffusers writes it, always with CLIP's `text_model`.
    """
    component, path = component_and_path(module)
    path = path.replace(".processor.", ".")
    if component != "unet":
        path = re.sub(r"to_(q|k|v|out)$", r"\1_proj", path)
    elif path.endswith("to_out"):
        path += ".0"
    flat = path.replace(".", "_")
    if component == "unet":
        flat = from_sgm(flat)
    elif component and not flat.startswith(("text_model_", "text_projection")):
        flat = f"text_model_{flat}"
    known = dotted(flat)
    roots = ROOTS["unet" if component == "unet" else "text"]
    return f"{component}.{known}" if component and known and roots.match(known) else None


def component_and_path(module: str) -> tuple[str, str]:
    """The component that a name belongs to ("" if unknown), and the rest of the name."""
    module = module.removeprefix(PEFT_PREFIX).removeprefix("model.")
    for prefix, component in PREFIXES.items():
        if module.startswith(prefix):
            return component, module.removeprefix(prefix).removeprefix(PEFT_PREFIX)
    if module.startswith(UNET_STARTS):
        return "unet", module
    return ("text_encoder" if module.startswith(TEXT_STARTS) else ""), module


def dotted(flat: str) -> str | None:
    """`down_blocks_0_attentions_1_proj_in` -> `down_blocks.0.attentions.1.proj_in`.

    None where the name contains a word that no layer's name has.
    """
    words, end = [], 0
    while word := WORD.match(flat, end):
        words.append(word[1])
        end = word.end()
    return ".".join(words) if words and end == len(flat) and flat[-1] != "_" else None


def kohya_name(layer: str, family: str) -> str:
    """kohya's name of a layer that has Studio's name, for a base of this family."""
    component, _, path = layer.partition(".")
    flat = path.replace(".", "_")
    if component == "unet":
        return "lora_unet_" + (to_sgm(flat) if family == "sdxl" else flat)
    encoder = {"text_encoder": "1", "text_encoder_2": "2"}[component] if family == "sdxl" else ""
    return f"lora_te{encoder}_{flat}"


def from_sgm(flat: str) -> str:
    """sgm's name of a module as diffusers' name; any other name unchanged."""
    return _rename(flat, SGM, SGM_RESNET)


def to_sgm(flat: str) -> str:
    """The inverse of `from_sgm`, for names of an SDXL UNet."""
    return _rename(flat, _inverse(SGM), _inverse(SGM_RESNET))


def _rename(flat: str, modules: dict[str, str], inner: dict[str, str]) -> str:
    for module, other in modules.items():
        if flat == module:
            return other
        if flat.startswith(f"{module}_"):
            rest = flat.removeprefix(f"{module}_")
            return f"{other}_{inner.get(rest, rest)}"
    return flat


def _inverse(names: dict[str, str]) -> dict[str, str]:
    return {other: name for name, other in names.items()}
