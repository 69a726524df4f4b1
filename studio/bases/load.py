"""Opening a base by its name, folder, file or Hugging Face id."""

from importlib.util import find_spec
from pathlib import Path

import torch

from studio.bases.base import Base
from studio.bases.device import parse_device, parse_dtype
from studio.bases.diffusers_folder import open_folder
from studio.bases.names import BUNDLED_BASES
from studio.bases.resolve import find_source
from studio.bases.schedulers import PREDICTION_TYPES, check_scheduler_config
from studio.bases.single_file import open_single_file
from studio.errors import BadInput


def load_base(
    source: str | Path = "sketch",
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    attention: str = "sdpa",
    vae_slicing: bool = False,
    vae_tiling: bool = False,
    offload: bool = False,
    prediction: str = "auto",
) -> Base:
    """Open a base of the SD 1.x, SD 2.x or SDXL family, frozen.

    source: "sketch", "sketch-sd1", a folder in the diffusers layout, a .safetensors checkpoint in
        the original layout, or a Hugging Face id, downloaded only where it is not in the cache.
    device: "auto" is the GPU, where there is one.
    dtype: "fp32", "fp16" or "bf16"; "auto" is fp16 on a GPU and fp32 elsewhere. In fp16 a VAE
        whose configuration asks for it (`force_upcast`, SDXL's does) stays in fp32.
    attention: "sdpa" (PyTorch's own) or "xformers".
    vae_slicing, vae_tiling: decode picture by picture, or in tiles: slower, in less memory.
    offload: keep only the part in use on the GPU; for small GPUs.
    prediction: "epsilon" or "v_prediction", for single files that do not say what they predict.

    Raises BadInput where any of this is not possible, before weights are read if it can.
    """
    chosen = parse_device(device)
    precision = parse_dtype(dtype, chosen)
    _check_attention(attention, chosen)
    _check_offload(offload, chosen)
    _check_prediction(prediction)
    path = find_source(source, half=precision != torch.float32)
    open_parts = open_folder if path.is_dir() else open_single_file
    parts = open_parts(path, precision, prediction=prediction)
    check_scheduler_config(parts.scheduler_config, str(path))
    if vae_slicing:
        parts.vae.enable_slicing()
    if vae_tiling:
        parts.vae.enable_tiling()
    if attention == "xformers":
        parts.unet.enable_xformers_memory_efficient_attention()
        parts.vae.enable_xformers_memory_efficient_attention()
    if not offload:
        for part in parts.modules():
            part.to(chosen)
    return Base(
        source=_absolute_source(source, path),
        name=_display_name(source, path),
        family=parts.family,
        unet=parts.unet,
        vae=parts.vae,
        tokenizers=parts.tokenizers,
        text_encoders=parts.text_encoders,
        scheduler_config=parts.scheduler_config,
        device=chosen,
        dtype=precision,
        offload=offload,
        zero_negative=parts.zero_negative,
    )


def _absolute_source(source: str | Path, path: Path) -> str:
    """What opens the same base from any working directory."""
    local = str(source) not in BUNDLED_BASES and Path(source).expanduser().exists()
    return str(path.resolve()) if local else str(source)


def _display_name(source: str | Path, path: Path) -> str:
    """What to call a base: its folder or file, or the id it was downloaded by."""
    if not Path(source).expanduser().exists():
        return str(source)
    return path.resolve().name if path.is_dir() else path.stem


def _check_offload(offload: bool, device: torch.device) -> None:
    if offload and device.type != "cuda":
        raise BadInput(
            "offload moves parts between the CPU and a GPU, but the device is "
            f"{device.type}: leave it out."
        )


def _check_prediction(prediction: str) -> None:
    if prediction not in ("auto", *PREDICTION_TYPES):
        choices = " or ".join(PREDICTION_TYPES)
        raise BadInput(f"prediction is {prediction!r}: choose auto, {choices}.")


def _check_attention(attention: str, device: torch.device) -> None:
    if attention not in ("sdpa", "xformers"):
        raise BadInput(f"There is no attention {attention!r}: choose sdpa or xformers.")
    if attention == "xformers" and find_spec("xformers") is None:
        raise BadInput(
            "attention is xformers but that is not installed: run `pip install xformers`, or "
            "leave it at sdpa."
        )
    if attention == "xformers" and device.type != "cuda":
        raise BadInput("xformers attention needs an NVIDIA GPU: leave it at sdpa.")
