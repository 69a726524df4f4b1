"""Open a single .safetensors checkpoint in the original key layout, without a download.

diffusers' own single-file code converts the keys. The configurations come from
studio/bases/configs, or from a folder of the checkpoint's name beside it (model.safetensors,
model/).
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from safetensors.torch import load_file

from studio.bases.architecture import (
    CONFIGS,
    Config,
    check_unet,
    checkpoint_header,
    detect_family,
    read_json,
)
from studio.bases.base import Parts
from studio.bases.names import PUBLISHED
from studio.bases.opening.checkpoint_names import holds_vae, with_usual_names
from studio.bases.opening.diffusers_parts import part_from_checkpoint, vae_dtype
from studio.bases.opening.tokenizers import open_tokenizers
from studio.bases.opening.vae import find_vae_beside, open_vae
from studio.bases.prompts import CLASSES, TextEncoder
from studio.errors import BadInput


def open_single_file(
    path: Path, dtype: torch.dtype, *, prediction: str = "auto", vae: Path | None = None
) -> Parts:
    """Read a checkpoint of the SD 1.x, SD 2.x or SDXL family.

    dtype: of the weights; see `vae_dtype` for the VAE.
    prediction: "epsilon" or "v_prediction", where the file does not state it or is wrong.
    vae: see `open_vae`; None for the file's own, or, if it has none, one that lies beside it.

    Raises BadInput where the file is no such checkpoint or is damaged, and where no tokenizer or no
    VAE can be found.
    """
    header = checkpoint_header(path)
    family = detect_family(header.shapes, str(path))
    beside = path.with_suffix("")
    own = (beside / "unet" / "config.json").is_file()
    configs = beside if own else CONFIGS / PUBLISHED[family]
    check_unet(read_json(configs / "unet" / "config.json"), str(configs))
    if vae is None and not holds_vae(header.shapes):
        vae = _vae_beside(path)
    tokenizers = open_tokenizers(path, family, (beside, path.parent))
    weights = with_usual_names(load_file(path))
    scheduler_config = _scheduler_config(configs, family, weights, header.metadata, prediction)
    parts = Parts(
        family=family,
        unet=part_from_checkpoint(UNet2DConditionModel, weights, configs / "unet", dtype),
        vae=_vae(vae, weights, configs / "vae", dtype),
        tokenizers=tokenizers,
        text_encoders=_text_encoders(weights, configs, dtype, family=family),
        scheduler_config=scheduler_config,
        zero_negative=family == "sdxl",
    )
    if family == "sd2" and scheduler_config["prediction_type"] == "epsilon" and not own:
        parts.unet.register_to_config(sample_size=64)  # this SD 2 was trained at 512 x 512
    return parts


def _vae_beside(path: Path) -> Path:
    """The VAE beside a checkpoint without one. Raises BadInput where there is none."""
    if vae := find_vae_beside(path):
        return vae
    raise BadInput(
        f"{path} holds no VAE: give one with --vae, a .safetensors file such as "
        f"vae-ft-mse-840000-ema-pruned, or put it beside as {path.stem}.vae.safetensors."
    )


def _vae(
    given: Path | None, weights: dict[str, torch.Tensor], configs: Path, dtype: torch.dtype
) -> AutoencoderKL:
    if given:
        return open_vae(given, configs, dtype)
    precision = vae_dtype(read_json(configs / "config.json"), dtype)
    return part_from_checkpoint(AutoencoderKL, weights, configs, precision)


def _scheduler_config(
    configs: Path,
    family: str,
    weights: dict[str, torch.Tensor],
    metadata: dict[str, str],
    prediction: str,
) -> Config:
    """The scheduler's configuration, with the prediction type that the checkpoint states.

    `v_pred` and `ztsnr` are the marker keys that SDXL fine-tunes carry and ComfyUI reads;
    `ss_zero_terminal_snr` is kohya's note.
    """
    config = read_json(configs / "scheduler" / "scheduler_config.json")
    stated = metadata.get("modelspec.prediction_type", "")
    if prediction != "auto":
        config["prediction_type"] = prediction
    elif "v_pred" in weights or stated in ("v", "v_prediction"):
        config["prediction_type"] = "v_prediction"
    elif stated in ("epsilon", "eps"):
        config["prediction_type"] = "epsilon"
    elif family == "sd2":
        config["prediction_type"] = _guess_sd2(weights, metadata, default=config["prediction_type"])
    if "ztsnr" in weights or metadata.get("ss_zero_terminal_snr") == "True":
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return config


def _guess_sd2(
    weights: dict[str, torch.Tensor], metadata: dict[str, str], *, default: object
) -> object:
    """The prediction type of an SD 2 checkpoint, which may be either.

    Where the metadata doesn't name it, the spread of one norm's bias tells: above 0.09 it is
    v-prediction. The rule is ComfyUI's (supported_models.py, SD20.model_type).
    """
    architecture = metadata.get("modelspec.architecture", "")
    if "v2-512" in architecture or "v2-768-v" in architecture:
        return "epsilon" if "v2-512" in architecture else "v_prediction"
    norm = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    if norm not in weights:
        return default
    return "v_prediction" if weights[norm].float().std(unbiased=False) > 0.09 else "epsilon"


def _text_encoders(
    weights: dict[str, torch.Tensor], configs: Path, dtype: torch.dtype, *, family: str
) -> tuple[TextEncoder, ...]:
    return tuple(
        create_diffusers_clip_model_from_ldm(
            kind,
            weights,
            subfolder=name,
            config=str(configs),
            torch_dtype=dtype,
            local_files_only=True,
        )
        for name, kind in CLASSES.items()
        if name == "text_encoder" or family == "sdxl"
    )
