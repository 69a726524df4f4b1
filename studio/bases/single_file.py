"""Opening a single .safetensors checkpoint in the original key layout, without a download.

The keys are converted by diffusers' own single-file code; the configurations come from
studio/configs, or from a folder of the checkpoint's name beside it (model.safetensors, model/).
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from huggingface_hub import snapshot_download, try_to_load_from_cache
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from studio.bases.architecture import (
    Config,
    check_unet,
    checkpoint_header,
    detect_family,
    read_json,
)
from studio.bases.base import Parts
from studio.bases.diffusers_folder import Model, vae_dtype
from studio.bases.prompts import CLASSES, TextEncoder
from studio.bases.resolve import is_hub_reachable
from studio.errors import BadInput

CONFIGS = Path(__file__).parent / "configs"
REAL = {"sd1": "sd15", "sd2": "sd21", "sdxl": "sdxl"}
# Every CLIP text encoder here shares one vocabulary; only the padding differs.
PADDING = {"sd1": ("<|endoftext|>",), "sd2": ("!",), "sdxl": ("<|endoftext|>", "!")}
VOCABULARIES = (
    ("openai/clip-vit-large-patch14", ""),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer/"),
    ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer/"),
    ("stabilityai/stable-diffusion-2-1", "tokenizer/"),
)


def open_single_file(path: Path, dtype: torch.dtype, *, prediction: str = "auto") -> Parts:
    """Read a checkpoint of the SD 1.x, SD 2.x or SDXL family.

    dtype: of the weights; see `vae_dtype` for the VAE.
    prediction: "epsilon" or "v_prediction" where the file does not say, or says it wrongly.

    Raises BadInput where the file is no such checkpoint, is damaged, or has no tokenizer at hand.
    """
    header = checkpoint_header(path)
    family = detect_family(header.shapes, str(path))
    beside = path.with_suffix("")
    own = (beside / "unet" / "config.json").is_file()
    configs = beside if own else CONFIGS / REAL[family]
    check_unet(read_json(configs / "unet" / "config.json"), str(configs))
    tokenizers = _tokenizers(path, family)
    weights = load_file(path)
    scheduler_config = _scheduler_config(configs, family, weights, header.metadata, prediction)
    vae, vae_config = configs / "vae", read_json(configs / "vae" / "config.json")
    parts = Parts(
        family=family,
        unet=_component(UNet2DConditionModel, weights, configs / "unet", dtype),
        vae=_component(AutoencoderKL, weights, vae, vae_dtype(vae_config, dtype)),
        tokenizers=tokenizers,
        text_encoders=_text_encoders(weights, configs, dtype, family=family),
        scheduler_config=scheduler_config,
        zero_negative=family == "sdxl",
    )
    if family == "sd2" and scheduler_config["prediction_type"] == "epsilon" and not own:
        parts.unet.register_to_config(sample_size=64)  # this SD 2 was trained at 512 x 512
    return parts


def _scheduler_config(
    configs: Path,
    family: str,
    weights: dict[str, torch.Tensor],
    metadata: dict[str, str],
    prediction: str,
) -> Config:
    """The scheduler's configuration, with the prediction type that the checkpoint states.

    `v_pred` and `ztsnr` are the marker keys that SDXL fine-tunes carry and ComfyUI reads.
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
    if "ztsnr" in weights:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return config


def _guess_sd2(
    weights: dict[str, torch.Tensor], metadata: dict[str, str], *, default: object
) -> object:
    """SD 2 came in both kinds. Unless named in the metadata, one norm's spread tells them apart.

    The rule is ComfyUI's (supported_models.py, SD20.model_type): above 0.09 it is v-prediction.
    """
    architecture = metadata.get("modelspec.architecture", "")
    if "v2-512" in architecture or "v2-768-v" in architecture:
        return "epsilon" if "v2-512" in architecture else "v_prediction"
    norm = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    if norm not in weights:
        return default
    return "v_prediction" if weights[norm].float().std(unbiased=False) > 0.09 else "epsilon"


def _component(
    kind: type[Model], weights: dict[str, torch.Tensor], configs: Path, dtype: torch.dtype
) -> Model:
    return kind.from_single_file(
        weights,  # pyright: ignore[reportArgumentType]  documented; the annotation forgets it
        config=str(configs.parent),
        subfolder=configs.name,
        torch_dtype=dtype,
        local_files_only=True,
    )


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


def _tokenizers(path: Path, family: str) -> tuple[CLIPTokenizer, ...]:
    """From folders beside the checkpoint, else CLIP's vocabulary with the family's padding."""
    names = ("tokenizer", "tokenizer_2")[: len(PADDING[family])]
    found = [_beside(path, name) for name in names]
    first = found[0] or _clip_vocabulary(path)
    return tuple(
        CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        if folder
        else CLIPTokenizer.from_pretrained(
            first, pad_token=pad, model_max_length=77, local_files_only=True
        )
        for folder, pad in zip(found, PADDING[family], strict=True)
    )


def _beside(path: Path, name: str) -> Path | None:
    """model/tokenizer or tokenizer, next to model.safetensors."""
    for folder in (path.with_suffix("") / name, path.parent / name):
        if (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file():
            return folder
    return None


def _clip_vocabulary(path: Path) -> Path:
    """CLIP's vocabulary from the Hugging Face cache, else from the hub."""
    for repository, folder in VOCABULARIES:
        vocabulary = try_to_load_from_cache(repository, f"{folder}vocab.json")
        merges = try_to_load_from_cache(repository, f"{folder}merges.txt")
        if isinstance(vocabulary, str) and isinstance(merges, str):
            return Path(vocabulary).parent
    repository = VOCABULARIES[0][0]
    if is_hub_reachable():
        try:
            return Path(snapshot_download(repository, allow_patterns=["vocab.json", "merges.txt"]))
        except OSError as error:
            raise BadInput(f"The tokenizer for {path} could not be downloaded: {error}") from error
    raise BadInput(
        f"{path} holds no tokenizer and there is none on this machine: put a folder `tokenizer` "
        f"with vocab.json and merges.txt of {repository} beside it, or connect once to download it."
    )
