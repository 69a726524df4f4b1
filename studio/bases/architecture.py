"""Tell the family of a base from its configuration or header alone, without PyTorch."""

from pathlib import Path

from studio.adapters.safetensors_header import Header, read_header
from studio.errors import BadInput
from studio.files import read_text
from studio.json_value import parse_object

CONFIGS = Path(__file__).parent / "configs"  # of the real models
Config = dict[str, object]
Shapes = dict[str, tuple[int, ...]]
CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"
REFINER = "{} is an SDXL refiner: give the SDXL base."


def family_of(path: Path) -> str:
    """The family ("sd1", "sd2", "sdxl") of a diffusers folder or checkpoint.

    Raises BadInput as `check_unet` and `detect_family` do.
    """
    if path.is_dir():
        read_json(path / "model_index.json")
        return check_unet(read_json(path / "unet" / "config.json"), str(path))
    return detect_family(checkpoint_header(path).shapes, str(path))


def check_unet(config: Config, where: str) -> str:
    """The family ("sd1", "sd2", "sdxl") of a UNet's configuration. BadInput for other models."""
    if config.get("_class_name", "UNet2DConditionModel") != "UNet2DConditionModel":
        raise BadInput(
            f"{where} is a {config['_class_name']}: bases are of the SD 1.x, SD 2.x or SDXL family."
        )
    _check_latent_channels(config.get("in_channels", 4), where)
    if config.get("addition_embed_type") == "text_time":
        if config.get("projection_class_embeddings_input_dim") == 2560:
            raise BadInput(REFINER.format(where))
        return "sdxl"
    return "sd2" if config.get("use_linear_projection") else "sd1"


def detect_family(shapes: Shapes, where: str) -> str:
    """The family ("sd1", "sd2", "sdxl") of a checkpoint in the original layout, from its keys.

    Raises BadInput for adapters, refiners, inpainting models and other architectures.
    """
    if len(shapes.get(CONV_IN, ())) < 2:
        if any("lora" in key or "lokr_" in key or "hada_" in key for key in shapes):
            raise BadInput(
                f"{where} is an adapter, not a base: give it with --adapter, and as base the "
                "model it was made for."
            )
        raise BadInput(
            f"{where} is not a Stable Diffusion 1.x, 2.x or XL checkpoint (it has no {CONV_IN})."
        )
    _check_latent_channels(shapes[CONV_IN][1], where)
    if any(key.startswith("edm_") for key in shapes):
        raise BadInput(
            f"{where} has the noise levels of EDM (CosXL, Playground 2.5): give a model with those "
            "of Stable Diffusion."
        )
    for prefix, family in (
        ("conditioner.embedders.1.model.", "sdxl"),
        ("cond_stage_model.model.", "sd2"),
        ("cond_stage_model.transformer.", "sd1"),
    ):
        if any(key.startswith(prefix) for key in shapes):
            return family
    if any(key.startswith("conditioner.embedders.0.model.") for key in shapes):
        raise BadInput(REFINER.format(where))
    raise BadInput(f"{where} holds no text encoder: give a full checkpoint, not the UNet alone.")


def _check_latent_channels(channels: object, where: str) -> None:
    if channels != 4:
        raise BadInput(
            f"{where} takes {channels} latent channels (an inpainting, depth or editing model); "
            "give a text-to-image base, which takes 4."
        )


def checkpoint_header(path: Path) -> Header:
    """The header of a base in one file. Raises BadInput for other files."""
    if path.suffix.lower() != ".safetensors":
        raise BadInput(f"{path} is not a base: give a .safetensors file or a diffusers folder.")
    return read_header(path)


def read_json(path: Path) -> Config:
    """A JSON object from a file. Raises BadInput where the file is missing or holds none."""
    if not path.exists():
        raise BadInput(f"{path} is missing: the base is not whole.")
    return dict(parse_object(read_text(path), str(path)))
