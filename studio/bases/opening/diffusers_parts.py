"""Open a UNet, a VAE or a text encoder from a diffusers folder or a checkpoint's weights."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from studio.bases.architecture import Config
from studio.bases.prompts import CLASSES, TextEncoder
from studio.bases.resolve import weight_variant
from studio.errors import BadInput

Model = TypeVar("Model", UNet2DConditionModel, AutoencoderKL)


def open_part(kind: type[Model], folder: Path, dtype: torch.dtype) -> Model:
    """Open a UNet or a VAE from its folder in the diffusers layout."""
    return kind.from_pretrained(folder, torch_dtype=dtype, **_weights(folder, dtype))


def open_text_encoder(folder: Path, dtype: torch.dtype) -> TextEncoder:
    """Open a text encoder from its folder, `text_encoder` or `text_encoder_2`."""
    kind = CLASSES[folder.name]
    return kind.from_pretrained(folder, dtype=dtype, **_weights(folder, dtype))


def part_from_checkpoint(
    kind: type[Model], weights: dict[str, torch.Tensor], configs: Path, dtype: torch.dtype
) -> Model:
    """A UNet or a VAE from weights in the original layout.

    configs: the folder with the part's config.json. Raises BadInput where weights are missing.
    """
    try:
        return kind.from_single_file(
            weights,  # pyright: ignore[reportArgumentType]  documented; the annotation forgets it
            config=str(configs.parent),
            subfolder=configs.name,
            torch_dtype=dtype,
            local_files_only=True,
        )
    except NotImplementedError:  # PyTorch's, for a weight that is still on the meta device
        raise BadInput(
            f"The checkpoint lacks weights of its {kind.__name__}, or names them in a way that is "
            "not known: it is not whole."
        ) from None


def vae_dtype(config: Config, dtype: torch.dtype) -> torch.dtype:
    """The precision for a VAE. SDXL's overflows in float16, so it stays in float32.

    A missing `force_upcast` means true, as in diffusers.
    """
    if dtype == torch.float16 and config.get("force_upcast", True):
        return torch.float32
    return dtype


def _weights(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of `from_pretrained` that say which files of weights to read."""
    variant = weight_variant(folder.parent, folder.name, half=dtype != torch.float32)
    return {"use_safetensors": True, "variant": variant, "local_files_only": True}
