"""Bases of the real shapes with random weights, made on the device, and diffusers' view of them."""

# diffusers annotates its sequences as tuples of one.
# pyright: reportArgumentType=false

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from torch import nn

import studio
from studio.bases.base import Base
from studio.bases.real_config import real_config
from tests.tiny import tiny_sd1, tiny_sdxl, tokenizer


def random_base(
    name: str,
    device: torch.device,
    *,
    dtype: str,
    tiny: Path | None = None,
    quantize: str = "none",
) -> Base:
    """SDXL ("sdxl") or SD 1.5 ("sd15") frozen, with small random weights.

    tiny: a folder for a miniature of it, which is then what is opened.
    """
    if tiny:
        folder = tiny / name
        tiny_sdxl(folder, layers=1) if name == "sdxl" else tiny_sd1(folder)
        return studio.load_base(folder, device=device, dtype=dtype, quantize=quantize)
    base = real_config(name, dtype=dtype)
    torch.manual_seed(0)
    for part in base.modules():
        part.to_empty(device=device).requires_grad_(False).eval()
        for module in part.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        for path, buffer in part.named_buffers():
            if path.endswith("position_ids"):
                buffer.copy_(torch.arange(buffer.shape[-1], device=device).expand_as(buffer))
    base.tokenizers = tuple(tokenizer(pad=pad) for pad in ("<|endoftext|>", "!"))
    base.tokenizers = base.tokenizers[: len(base.text_encoders)]
    base.device, base.quantize = device, quantize
    base.store_quantized()
    return base


def pipeline_of(base: Base) -> Any:
    """diffusers' pipeline of the same modules, with Euler."""
    scheduler = EulerDiscreteScheduler.from_config(dict(base.scheduler_config))
    parts = {"unet": base.unet, "vae": base.vae, "scheduler": scheduler}
    parts |= {"tokenizer": base.tokenizers[0], "text_encoder": base.text_encoders[0]}
    if base.family == "sdxl":
        second = {"tokenizer_2": base.tokenizers[1], "text_encoder_2": base.text_encoders[1]}
        pipeline = StableDiffusionXLPipeline(**parts, **second, add_watermarker=False)
    else:
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def move_idle_parts(base: Base, device: str | torch.device) -> None:
    """All but the UNet, as loops with caches of their own do."""
    for part in (base.vae, *base.text_encoders):
        nn.Module.to(part, device)
