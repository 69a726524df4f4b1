"""The reference that rendering is compared with: diffusers' pipelines and peft's LoRA layers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

from studio.base import Base, load_base
from studio.shot import Shot

Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]


@pytest.fixture(scope="session")
def folders(sdxl_folder: Path, sd1_folder: Path, sd2_folder: Path) -> dict[str, Path]:
    return {"sdxl": sdxl_folder, "sd1": sd1_folder, "sd2": sd2_folder}


@pytest.fixture(scope="session")
def bases(folders: dict[str, Path]) -> dict[str, Base]:
    """A base of each family, shared by all tests: none of them may leave a trace on it."""
    return {family: load_base(folder) for family, folder in folders.items()}


@pytest.fixture(scope="session")
def sdxl(bases: dict[str, Base]) -> Base:
    return bases["sdxl"]


@pytest.fixture
def pipeline(folders: dict[str, Path]) -> Callable[[str], Pipeline]:
    """A fresh diffusers pipeline of a family."""
    return lambda family: open_pipeline(folders[family])


@pytest.fixture(scope="session")
def lora_files(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path]]:
    """Two LoRAs for each family, as diffusers writes them, with changes to the text encoders."""
    here = tmp_path_factory.mktemp("loras")
    return {
        family: (
            write_lora(folder, here / f"{family}-one.safetensors", rank=4, alpha=4, seed=1),
            write_lora(folder, here / f"{family}-two.safetensors", rank=2, alpha=6, seed=2),
        )
        for family, folder in folders.items()
    }


def open_pipeline(folder: Path) -> Pipeline:
    xl = (folder / "text_encoder_2").is_dir()
    kind = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    opened = kind.from_pretrained(folder, local_files_only=True)
    opened.set_progress_bar_config(disable=True)
    return opened


def write_lora(folder: Path, path: Path, *, rank: int, alpha: int, seed: int) -> Path:
    """A LoRA of random factors, so large that it plainly changes the picture."""
    made = open_pipeline(folder)
    parts = {"unet": made.unet, "text_encoder": made.text_encoder}
    if hasattr(made, "text_encoder_2"):
        parts["text_encoder_2"] = made.text_encoder_2
    generator = torch.Generator().manual_seed(seed)
    layers, settings = {}, {}
    for name, part in parts.items():
        targets = ATTENTION if name == "unet" else TEXT
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)
        part.add_adapter(config)
        for key, weight in part.named_parameters():
            if "lora_" in key:
                weight.data = torch.randn(weight.shape, generator=generator) * 0.08
        state = get_peft_model_state_dict(part)
        layers[f"{name}_lora_layers"] = convert_state_dict_to_diffusers(state)
        settings[f"{name}_lora_adapter_metadata"] = config.to_dict()
    made.save_lora_weights(path.parent, weight_name=path.name, **layers, **settings)
    return path


def noise(shot: Shot, side: tuple[int, int] = (8, 8)) -> Tensor:
    """The noise of a shot as the design has it: on the CPU, from the shot's own seed."""
    return torch.randn(1, 4, *side, generator=torch.Generator().manual_seed(shot.seed))


def bits(base: Base) -> dict[str, Tensor]:
    """A copy of every weight of the UNet and the text encoders."""
    modules = {"unet": base.unet, **{f"t{i}": m for i, m in enumerate(base.text_encoders)}}
    return {
        f"{name}.{key}": value.clone()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }


def same_bits(base: Base, before: dict[str, Tensor]) -> bool:
    after = bits(base)
    return after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in after)
