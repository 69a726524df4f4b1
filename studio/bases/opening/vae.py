"""Open a separate VAE, which replaces a base's own or a missing one."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from studio.adapters.safetensors_header import PICKLES, pickle_error, read_header
from studio.bases.architecture import read_json
from studio.bases.opening.checkpoint_names import VAE_PREFIXES, holds_vae, with_usual_names
from studio.bases.opening.diffusers_parts import open_part, part_from_checkpoint, vae_dtype
from studio.errors import BadInput

CONV_IN = "decoder.conv_in.weight"


def open_vae(source: Path, configs: Path, dtype: torch.dtype) -> AutoencoderKL:
    """Read a VAE of the SD 1.x, SD 2.x or SDXL families.

    source: a .safetensors file in the original or in diffusers' layout, or a diffusers folder
    (a VAE, or a whole model).  configs: the folder with the configuration for a file.
    dtype: see `vae_dtype`.  Raises BadInput where there is no such VAE.
    """
    if source.is_dir():
        folder = source if (source / "config.json").is_file() else source / "vae"
        return open_part(AutoencoderKL, folder, vae_dtype(read_json(folder / "config.json"), dtype))
    _check_file(source)
    weights = with_usual_names(_with_prefix(load_file(source)))
    precision = vae_dtype(read_json(configs / "config.json"), dtype)
    return part_from_checkpoint(AutoencoderKL, weights, configs, precision)


def find_vae_beside(checkpoint: Path) -> Path | None:
    """The VAE that lies beside a checkpoint; None where there is none.

    For model.safetensors that is model/vae, model.vae.safetensors (A1111's name) or vae.
    """
    places = (checkpoint.with_suffix("") / "vae", checkpoint.parent / "vae")
    file = checkpoint.with_name(f"{checkpoint.stem}.vae.safetensors")
    if file.is_file() and not any(places[0].glob("*.safetensors")):
        return file
    return next((place for place in places if any(place.glob("*.safetensors"))), None)


def _check_file(path: Path) -> None:
    """Raise BadInput unless the file is a VAE of 4 latent channels."""
    if path.suffix.lower() in PICKLES:
        raise pickle_error(path)
    if not path.is_file():
        raise BadInput(f"There is no VAE {path}: give a .safetensors file or a diffusers folder.")
    if path.suffix.lower() != ".safetensors":
        raise BadInput(f"{path} is not a VAE: give a .safetensors file or a diffusers folder.")
    shapes = read_header(path).shapes
    inputs = [shape for key, shape in shapes.items() if key.endswith(CONV_IN) and len(shape) > 1]
    if not inputs:
        raise BadInput(f"{path} is not a VAE: it has no {CONV_IN}.")
    if inputs[0][1] != 4:
        raise BadInput(
            f"{path} is a VAE of {inputs[0][1]} latent channels, for another kind of model: bases "
            "of the SD 1.x, SD 2.x and SDXL families have 4."
        )


def _with_prefix(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A VAE's weights, named as in a whole checkpoint unless they have diffusers' names."""
    if holds_vae(weights) or "encoder.down_blocks.0.resnets.0.conv1.weight" in weights:
        return weights
    return {f"{VAE_PREFIXES[0]}{key}": weight for key, weight in weights.items()}
