"""A base as deep as SDXL and a fifth as wide, with random weights: what time is measured on.

SDXL's UNet with 64, 128 and 256 channels for 320, 640 and 1280, and all its 70 transformer layers:
97.6 million parameters, 560 attention projections. The rest is the sketch base's.
"""

# diffusers annotates its sequences as tuples of one.
# pyright: reportArgumentType=false

import shutil
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

__all__ = ["wide_sdxl"]

SKETCH = Path(__file__).parents[2] / "assets" / "sketch"


def wide_sdxl(folder: Path, *, seed: int = 0) -> Path:
    """Save the base as a diffusers folder, 200 MB in half precision; latents of 16 x 16."""
    shutil.copytree(SKETCH, folder, ignore=shutil.ignore_patterns("*.png", "*.log"))
    own = UNet2DConditionModel.load_config(folder / "unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=own["sample_size"],
            down_block_types=own["down_block_types"],
            up_block_types=own["up_block_types"],
            block_out_channels=(64, 128, 256),
            layers_per_block=2,
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(2, 4, 8),
            cross_attention_dim=own["cross_attention_dim"],
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=own["addition_time_embed_dim"],
            projection_class_embeddings_input_dim=own["projection_class_embeddings_input_dim"],
        )
    shutil.rmtree(folder / "unet")
    unet.half().save_pretrained(folder / "unet")
    return folder
