"""Checkpoints in the original (CompVis, Stability) key layout, made from diffusers' folders.

The inverse of the conversion in diffusers' single-file loader, written from the original module
trees: UNet as `model.diffusion_model.`, VAE as `first_stage_model.`, text encoders as
`cond_stage_model.` or, in SDXL, `conditioner.embedders.`.
"""

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["original_keys", "original_unet_name", "save_original", "single_file"]

TINY_LAYERS = {"sdxl": 2, "sd1": 1, "sd2": 1}  # `layers_per_block` of the UNets of tests/tiny.py

Weights = Mapping[str, Tensor]
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def save_original(
    folder: Path,
    path: Path,
    *,
    family: str,
    layers: int,
    extra: Weights | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a diffusers folder as one checkpoint.  layers: `layers_per_block` of its UNet."""
    text = {
        name: load_file(folder / name / "model.safetensors")
        for name in ("text_encoder", "text_encoder_2")
        if (folder / name).is_dir()
    }
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    weights = original_keys(unet, vae, text, family=family, layers=layers) | dict(extra or {})
    save_file({key: one.contiguous() for key, one in weights.items()}, path, metadata or None)
    return path


def single_file(folder: Path, to: Path, family: str, **options: Any) -> Path:
    """A tiny base as a checkpoint; beside it, in a folder, its configurations and tokenizers.

    options: as `save_original` takes them.
    """
    weights = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(folder, to.with_suffix(""), ignore=weights)
    return save_original(folder, to, family=family, layers=TINY_LAYERS[family], **options)


def original_keys(
    unet: Weights, vae: Weights, text: Mapping[str, Weights], *, family: str, layers: int
) -> dict[str, Tensor]:
    """All parts under their original names; tensors may be on the meta device."""
    found = {
        f"model.diffusion_model.{original_unet_name(key, unet, layers)}": unet[key] for key in unet
    }
    found |= {f"first_stage_model.{key}": one for key, one in _vae(vae)}
    for name, weights in text.items():
        plain = {key.removeprefix("text_model."): one for key, one in weights.items()}
        found |= dict(_clip(plain, name, family))
    return found


def original_unet_name(key: str, unet: Weights, layers: int) -> str:
    """A tensor's name there. layers: see save_original."""
    for ours, theirs in UNET.items():
        if key.startswith(ours + "."):
            return theirs + key.removeprefix(ours)
    parts = key.split(".")
    block = int(parts[1]) if parts[1].isdigit() else 0
    if parts[0] == "mid_block":
        place = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}[".".join(parts[1:3])]
        where, kind, rest = f"middle_block.{place}", parts[1], parts[3:]
    elif parts[2] == "downsamplers":
        return f"input_blocks.{(layers + 1) * (block + 1)}.0.op.{parts[-1]}"
    elif parts[2] == "upsamplers":
        attends = any(one.startswith(f"up_blocks.{block}.attentions") for one in unet)
        number = (layers + 1) * block + layers
        return f"output_blocks.{number}.{2 if attends else 1}.conv.{parts[-1]}"
    else:
        down = parts[0] == "down_blocks"
        number = (layers + 1) * block + int(parts[3]) + (1 if down else 0)
        side = "input_blocks" if down else "output_blocks"
        where, kind, rest = f"{side}.{number}.{int(parts[2] == 'attentions')}", parts[2], parts[4:]
    if kind == "resnets":
        rest = [RESNET[rest[0]], *rest[1:]]
    return ".".join([where, *rest])


def _vae(vae: Weights) -> Iterator[tuple[str, Tensor]]:
    blocks = 1 + max(int(found[1]) for key in vae if (found := re.search(r"up_blocks\.(\d)", key)))
    for key, one in vae.items():
        key = re.sub(
            r"up_blocks\.(\d)\.", lambda found: f"up.{blocks - 1 - int(found[1])}.", key
        ).replace("down_blocks.", "down.")
        key = re.sub(r"(samplers\.0\.conv)", "sample.conv", key)
        key = re.sub(r"mid_block\.resnets\.(\d)", lambda got: f"mid.block_{int(got[1]) + 1}", key)
        key = key.replace("resnets.", "block.").replace("conv_shortcut", "nin_shortcut")
        key = key.replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0" in key:
            key = key.replace("mid_block.attentions.0", "mid.attn_1")
            for ours, theirs in (
                ("group_norm", "norm"),
                ("to_q", "q"),
                ("to_k", "k"),
                ("to_v", "v"),
                ("to_out.0", "proj_out"),
            ):
                key = key.replace(ours, theirs)
            if one.ndim == 2:
                one = one[:, :, None, None]  # the original attends with 1 x 1 convolutions
        yield key, one


def _clip(weights: Weights, name: str, family: str) -> Iterator[tuple[str, Tensor]]:
    """CLIP keeps its names, OpenCLIP (SD 2, and SDXL's second) has its own."""
    if name == "text_encoder" and family != "sd2":
        prefix = "conditioner.embedders.0" if family == "sdxl" else "cond_stage_model"
        yield f"{prefix}.transformer.text_model.embeddings.position_ids", torch.arange(77)[None]
        for key, one in weights.items():
            yield f"{prefix}.transformer.text_model.{key}", one
        return
    prefix = "conditioner.embedders.1.model" if family == "sdxl" else "cond_stage_model.model"
    names = {
        "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    for key, one in weights.items():
        if key in names:
            yield f"{prefix}.{names[key]}", one
        elif key == "text_projection.weight":
            yield f"{prefix}.text_projection", one.T
        elif "q_proj" in key:
            every = [
                weights[key.replace("q_proj", other)] for other in ("q_proj", "k_proj", "v_proj")
            ]
            inner = key.removeprefix("encoder.layers.").replace(
                "self_attn.q_proj.", "attn.in_proj_"
            )
            yield f"{prefix}.transformer.resblocks.{inner}", torch.cat(every)
        elif "k_proj" not in key and "v_proj" not in key:
            inner = key.removeprefix("encoder.layers.").replace("self_attn", "attn")
            inner = (
                inner.replace("layer_norm", "ln_").replace("fc1", "c_fc").replace("fc2", "c_proj")
            )
            yield f"{prefix}.transformer.resblocks.{inner}", one
