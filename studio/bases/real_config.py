"""Real bases without their weights, to count and name layers."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig

from studio.bases.architecture import CONFIGS, check_unet, read_json
from studio.bases.base import Base
from studio.bases.device import parse_device, parse_dtype
from studio.bases.prompts import CLASSES
from studio.bases.schedulers import from_config
from studio.errors import BadInput

REAL_CONFIGS = ("sd15", "sd21", "sdxl")


def real_config(name: str, *, dtype: str = "fp32") -> Base:
    """The real SD 1.5 ("sd15"), SD 2.1 ("sd21") or SDXL ("sdxl") on the meta device.

    Every layer has its true name and shape and no storage, to count and to match keys; without
    tokenizers. dtype: as `load_base` takes it. Raises BadInput for another name.
    """
    if name not in REAL_CONFIGS:
        raise BadInput(f"There is no configuration {name!r}: choose {', '.join(REAL_CONFIGS)}.")
    folder = CONFIGS / name
    unet = read_json(folder / "unet" / "config.json")
    family = check_unet(unet, name)
    precision = parse_dtype(dtype, parse_device("auto"))
    with torch.device("meta"):
        base = Base(
            source=name,
            name=name,
            family=family,
            unet=from_config(UNet2DConditionModel, unet),
            vae=from_config(AutoencoderKL, read_json(folder / "vae" / "config.json")),
            tokenizers=(),
            text_encoders=tuple(
                kind(CLIPTextConfig.from_pretrained(folder / part, local_files_only=True))
                for part, kind in CLASSES.items()
                if (folder / part).is_dir()
            ),
            scheduler_config=read_json(folder / "scheduler" / "scheduler_config.json"),
            device=torch.device("meta"),
            dtype=precision,
        )
    upcast = precision == torch.float16 and base.vae.config["force_upcast"]
    for part in (base.unet, *base.text_encoders, *(() if upcast else (base.vae,))):
        nn.Module.to(part, precision)
    return base
