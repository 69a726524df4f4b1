"""What the layers are called: dotted as in diffusers' module tree, underscored in kohya's files.

An underscored name is ambiguous by itself (`to_out_0`, `transformer_blocks_0`), so it is read by
the words that occur in Stable Diffusion's module names. kohya trains SDXL on the UNet of its
authors (package sgm), whose blocks are numbered through; the arithmetic below is that of a UNet
of three levels with two resnets each, which is SDXL's and the sketch base's.
"""

import re

WORDS = """
    down_blocks mid_block up_blocks resnets attentions downsamplers upsamplers transformer_blocks
    attn1 attn2 to_q to_k to_v to_out ff net proj proj_in proj_out conv conv1 conv2 conv_in conv_out
    conv_shortcut time_emb_proj time_embedding add_embedding linear_1 linear_2 cond_proj
    text_model encoder layers self_attn q_proj k_proj v_proj out_proj mlp fc1 fc2 text_projection
"""
WORD = re.compile(rf"({'|'.join(sorted(WORDS.split(), key=len, reverse=True))}|\d+)(?:_|$)")

# Longest first: "text_encoder_2." also starts with "text_encoder".
PREFIXES = {
    "lora_unet_": "unet",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te_": "text_encoder",
    "lycoris_": "unet",
    "unet.": "unet",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder.": "text_encoder",
    "diffusion_model.": "unet",
}
UNET_STARTS = ("down_blocks", "mid_block", "up_blocks", "conv_", "time_embedding", "add_embedding")
TEXT_STARTS = ("text_model", "encoder", "text_projection")

RESNETS_PER_LEVEL = 2
SGM_TOP = {
    "input_blocks_0_0": "conv_in",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
    "out_2": "conv_out",
}
SGM_RESNET = {
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}
SGM_BLOCK = re.compile(r"(input|output)_blocks_(\d+)_(\d)_(.+)|middle_block_()(\d)_(.+)")
OUR_BLOCK = re.compile(
    r"(?:down|up)_blocks_(\d)_(resnets|attentions|downsamplers|upsamplers)_(\d)_(.+)"
)


def layer_name(module: str) -> str | None:
    """Our name of a layer, from its name in any dialect's file; None where it is none we know.

    Ours is the component (`unet`, `text_encoder`, `text_encoder_2`) and the module's dotted path
    as diffusers writes it, CLIP's `text_model` always spelled out.
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
    return f"{component}.{known}" if component and known else None


def component_and_path(module: str) -> tuple[str, str]:
    """Which of the models a name belongs to ("" if unknown), and the rest of the name."""
    module = module.removeprefix("base_model.model.").removeprefix("model.")
    for prefix, component in PREFIXES.items():
        if module.startswith(prefix):
            return component, module.removeprefix(prefix)
    if module.startswith(UNET_STARTS):
        return "unet", module
    return ("text_encoder" if module.startswith(TEXT_STARTS) else ""), module


def dotted(flat: str) -> str | None:
    """`down_blocks_0_attentions_1_proj_in` -> `down_blocks.0.attentions.1.proj_in`.

    None where it holds a word that no layer's name has.
    """
    words, at = [], 0
    while found := WORD.match(flat, at):
        words.append(found[1])
        at = found.end()
    return ".".join(words) if words and at == len(flat) and flat[-1] != "_" else None


def kohya_name(layer: str, family: str) -> str:
    """The name that kohya gives a layer of ours, for a base of this family."""
    component, _, path = layer.partition(".")
    flat = path.replace(".", "_")
    if component == "unet":
        return "lora_unet_" + (to_sgm(flat) if family == "sdxl" else flat)
    encoder = {"text_encoder": "1", "text_encoder_2": "2"}[component] if family == "sdxl" else ""
    return f"lora_te{encoder}_{flat}"


def from_sgm(flat: str) -> str:
    """SDXL's own block numbers as diffusers' names; any other name as it is."""
    if flat in SGM_TOP:
        return SGM_TOP[flat]
    found = SGM_BLOCK.fullmatch(flat)
    if found is None:
        return flat
    side, number, inner, rest, _, middle, middle_rest = found.groups()
    if middle:
        module = ("resnets_0", "attentions_0", "resnets_1")[min(int(middle), 2)]
        return f"mid_block_{module}_{SGM_RESNET.get(middle_rest, middle_rest)}"
    rest = SGM_RESNET.get(rest, rest)
    level, at = divmod(int(number) - (side == "input"), RESNETS_PER_LEVEL + 1)
    if rest == "op":
        return f"down_blocks_{level}_downsamplers_0_conv"
    if rest == "conv":
        return f"up_blocks_{level}_upsamplers_0_conv"
    module = "attentions" if inner == "1" else "resnets"
    return f"{'down' if side == 'input' else 'up'}_blocks_{level}_{module}_{at}_{rest}"


def to_sgm(flat: str) -> str:
    """The inverse of `from_sgm`, for names of an SDXL UNet."""
    for sgm, ours in SGM_TOP.items():
        if flat == ours:
            return sgm
    for module, number in (("resnets_0", 0), ("attentions_0", 1), ("resnets_1", 2)):
        if flat.startswith(f"mid_block_{module}_"):
            return f"middle_block_{number}_{_sgm_inner(flat.removeprefix(f'mid_block_{module}_'))}"
    found = OUR_BLOCK.fullmatch(flat)
    if found is None:
        return flat
    level, module, at, rest = int(found[1]), found[2], int(found[3]), found[4]
    first = level * (RESNETS_PER_LEVEL + 1)
    if module == "downsamplers":
        return f"input_blocks_{first + RESNETS_PER_LEVEL + 1}_0_op"
    if module == "upsamplers":
        return f"output_blocks_{first + RESNETS_PER_LEVEL}_2_conv"
    side, number = ("input", first + at + 1) if flat.startswith("down") else ("output", first + at)
    return f"{side}_blocks_{number}_{int(module == 'attentions')}_{_sgm_inner(rest)}"


def _sgm_inner(rest: str) -> str:
    for sgm, ours in SGM_RESNET.items():
        if rest == ours:
            return sgm
    return rest
