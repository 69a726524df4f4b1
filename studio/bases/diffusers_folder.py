"""Opening a base in the diffusers layout: model_index.json and a folder for each part."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTokenizer

from studio.bases.architecture import Config, check_unet, read_json
from studio.bases.base import Parts
from studio.bases.prompts import CLASSES, TextEncoder
from studio.bases.resolve import weight_variant
from studio.errors import BadInput

Model = TypeVar("Model", UNet2DConditionModel, AutoencoderKL)


def open_folder(folder: Path, dtype: torch.dtype, *, prediction: str = "auto") -> Parts:
    """Read a base of the SD 1.x, SD 2.x or SDXL family.

    dtype: of the weights; see `vae_dtype` for the VAE.
    prediction: "epsilon" or "v_prediction" where the configuration says it wrongly.

    Raises BadInput where a part is missing, damaged, pickled or of another family.
    """
    if not (folder / "model_index.json").is_file():
        raise BadInput(
            f"{folder} is not a base in the diffusers layout: it has no model_index.json."
        )
    index = read_json(folder / "model_index.json")
    config = read_json(folder / "unet" / "config.json")
    family = check_unet(config, str(folder))
    names = ("text_encoder", "text_encoder_2") if family == "sdxl" else ("text_encoder",)
    scheduler_config = read_json(folder / "scheduler" / "scheduler_config.json")
    if prediction != "auto":
        scheduler_config["prediction_type"] = prediction
    vae_config = read_json(folder / "vae" / "config.json")
    half = dtype != torch.float32
    for part in ("unet", "vae", *names):
        read_json(folder / part / "config.json")
        weight_variant(folder, part, half=half)
    return Parts(
        family=family,
        unet=_component(UNet2DConditionModel, folder / "unet", dtype),
        vae=_component(AutoencoderKL, folder / "vae", vae_dtype(vae_config, dtype)),
        tokenizers=tuple(
            CLIPTokenizer.from_pretrained(
                folder / name.replace("text_encoder", "tokenizer"), local_files_only=True
            )
            for name in names
        ),
        text_encoders=tuple(_text_encoder(folder / name, dtype) for name in names),
        scheduler_config=scheduler_config,
        # SDXL's pipeline assumes true where the index says nothing.
        zero_negative=family == "sdxl" and index.get("force_zeros_for_empty_prompt", True) is True,
    )


def _component(kind: type[Model], folder: Path, dtype: torch.dtype) -> Model:
    return kind.from_pretrained(folder, torch_dtype=dtype, **_weights(folder, dtype))


def _text_encoder(folder: Path, dtype: torch.dtype) -> TextEncoder:
    kind = CLASSES[folder.name]
    return kind.from_pretrained(folder, dtype=dtype, **_weights(folder, dtype))


def _weights(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Which weights the libraries are to read."""
    variant = weight_variant(folder.parent, folder.name, half=dtype != torch.float32)
    return {"use_safetensors": True, "variant": variant, "local_files_only": True}


def vae_dtype(config: Config, dtype: torch.dtype) -> torch.dtype:
    """The precision for a VAE: SDXL's overflows in float16, so that it stays in float32.

    diffusers reads an absent `force_upcast` as true.
    """
    if dtype == torch.float16 and config.get("force_upcast", True):
        return torch.float32
    return dtype
