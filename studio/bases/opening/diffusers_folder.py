"""Open a base in the diffusers layout: model_index.json and a folder for each part."""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from studio.bases.architecture import check_unet, read_json
from studio.bases.base import Parts
from studio.bases.opening.diffusers_parts import open_part, open_text_encoder
from studio.bases.opening.tokenizers import open_tokenizers
from studio.bases.opening.vae import open_vae
from studio.bases.resolve import weight_variant
from studio.errors import BadInput


def open_folder(
    folder: Path, dtype: torch.dtype, *, prediction: str = "auto", vae: Path | None = None
) -> Parts:
    """Read a base of the SD 1.x, SD 2.x or SDXL family.

    dtype: of the weights; see `vae_dtype` for the VAE.
    prediction: "epsilon" or "v_prediction", where the configuration is wrong.
    vae: see `open_vae`; None for the folder's own.

    Raises BadInput where a part is missing, damaged, pickled or of another family.
    """
    if not (folder / "model_index.json").is_file():
        raise BadInput(
            f"{folder} is not a base in the diffusers layout: it has no model_index.json."
        )
    index = read_json(folder / "model_index.json")
    family = check_unet(read_json(folder / "unet" / "config.json"), str(folder))
    names = ("text_encoder", "text_encoder_2") if family == "sdxl" else ("text_encoder",)
    scheduler_config = read_json(folder / "scheduler" / "scheduler_config.json")
    if prediction != "auto":
        scheduler_config["prediction_type"] = prediction
    for part in ("unet", *names, *(() if vae else ("vae",))):
        read_json(folder / part / "config.json")
        weight_variant(folder, part, half=dtype != torch.float32)
    return Parts(
        family=family,
        tokenizers=open_tokenizers(folder, family, (folder,)),
        unet=open_part(UNet2DConditionModel, folder / "unet", dtype),
        vae=open_vae(vae or folder / "vae", folder / "vae", dtype),
        text_encoders=tuple(open_text_encoder(folder / name, dtype) for name in names),
        scheduler_config=scheduler_config,
        # SDXL's pipeline assumes true where the index says nothing.
        zero_negative=family == "sdxl" and index.get("force_zeros_for_empty_prompt", True) is True,
    )
