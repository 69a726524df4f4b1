"""Bases without their weights, on the meta device, to count and name layers."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig

from studio.bases.architecture import CONFIGS, check_unet, read_json
from studio.bases.base import Base
from studio.bases.device import parse_device, parse_dtype
from studio.bases.info import find_local, read_base_info
from studio.bases.names import PUBLISHED
from studio.bases.prompts import CLASSES
from studio.bases.quantized.layers import check_form
from studio.bases.schedulers import from_config
from studio.errors import BadInput

REAL_CONFIGS = tuple(PUBLISHED.values())


def real_config(name: str, *, dtype: str = "fp32", quantize: str = "none") -> Base:
    """The real SD 1.5 ("sd15"), SD 2.1 ("sd21") or SDXL ("sdxl") on the meta device.

    Every layer has its true name and shape but no storage. There are no tokenizers.
    dtype, quantize: as in `load_base`. Raises BadInput for another name.
    """
    if name not in REAL_CONFIGS:
        raise BadInput(f"There is no configuration {name!r}: choose {', '.join(REAL_CONFIGS)}.")
    check_form(quantize)
    base = _outline(CONFIGS / name, name, dtype)
    base.quantize = quantize
    base.store_quantized()
    return base


def outline(source: str) -> Base:
    """A base of this machine on the meta device, as from `real_config`. Reads no weight.

    source: as in `load_base`, or a name that `real_config` knows. A checkpoint in one file has the
    layers of the configuration beside it, or else those of its family.
    Raises BadInput where the source is no base, or not downloaded yet.
    """
    if source in REAL_CONFIGS:
        return real_config(source)
    path, info = find_local(source), read_base_info(source)
    if path is None or info is None:
        raise BadInput(f"The base {source} is not downloaded yet: draw with it once")
    folder = path if path.is_dir() else path.with_suffix("")
    if not (folder / "unet" / "config.json").is_file():
        folder = CONFIGS / PUBLISHED[info.family]
    return _outline(folder, info.name, "fp32")


def _outline(folder: Path, name: str, dtype: str) -> Base:
    """folder: a base in the diffusers layout, of which only the configurations are read."""
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
