"""Opening a base in the diffusers layout: model_index.json and a folder for each part."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from studio.bases.architecture import Config, check_unet, read_json
from studio.bases.prompts import TextEncoder
from studio.bases.resolve import weight_variant
from studio.errors import BadInput

Model = TypeVar("Model", UNet2DConditionModel, AutoencoderKL)


@dataclass(frozen=True)
class Parts:
    """The parts of a base, on the CPU.

    zero_negative: an empty negative prompt means zeros, not the encoded empty text.
    """

    family: str
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    tokenizers: tuple[CLIPTokenizer, ...]
    text_encoders: tuple[TextEncoder, ...]
    scheduler_config: Config
    zero_negative: bool

    def modules(self) -> tuple[nn.Module, ...]:
        """The UNet, the VAE and the text encoders."""
        return (self.unet, self.vae, *self.text_encoders)


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
    try:
        with quiet_libraries():
            parts = Parts(
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
                zero_negative=family == "sdxl"
                and index.get("force_zeros_for_empty_prompt", True) is True,
            )
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(f"The base in {folder} could not be opened: {reason}") from error
    freeze_and_check(parts, str(folder))
    return parts


def _component(kind: type[Model], folder: Path, dtype: torch.dtype) -> Model:
    return kind.from_pretrained(folder, torch_dtype=dtype, **_weights(folder, dtype))


def _text_encoder(folder: Path, dtype: torch.dtype) -> TextEncoder:
    second = folder.name == "text_encoder_2"
    kind = CLIPTextModelWithProjection if second else CLIPTextModel
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


def freeze_and_check(parts: Parts, where: str) -> None:
    """Freeze every weight; raise BadInput where one was missing from the files."""
    for module in parts.modules():
        module.requires_grad_(False).eval()
        for name, weight in module.named_parameters():
            if weight.is_meta:
                raise BadInput(
                    f"{where} lacks {name} of its {type(module).__name__}: the file is not whole."
                )
    for tokenizer, encoder in zip(parts.tokenizers, parts.text_encoders, strict=True):
        embedding = encoder.get_input_embeddings()
        rows = embedding.num_embeddings if isinstance(embedding, nn.Embedding) else 0
        if len(tokenizer) > rows:
            raise BadInput(
                f"{where}: the tokenizer knows {len(tokenizer)} tokens but the text encoder "
                f"{rows}: they do not belong together."
            )


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence transformers' progress bars, and diffusers' warning about an empty list."""
    shown = transformers_logging.is_progress_bar_enabled()
    level = diffusers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()
