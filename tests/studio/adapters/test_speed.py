"""Speed adapters in the layouts that their authors publish, of the real bases' layers."""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import pytest
from torch import nn

from studio.adapters.speed import Sampling, speed_sampling
from studio.bases.real_config import real_config

Write = Callable[..., Path]
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@lru_cache
def layers(config: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a real base's UNet layers, without conv_in and conv_out as LCM-LoRA has it."""
    found = real_config(config).layers()
    outer = ("unet.conv_in", "unet.conv_out", "unet.time_embedding", "unet.add_embedding")
    return {
        name: tuple(layer.weight.shape)
        for name, layer in found.items()
        if name.startswith("unet.") and not name.startswith(outer)
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A LoRA in kohya's names: its header, and as many empty bytes as that asks for."""

    def write(
        name: str,
        config: str = "sd15",
        *,
        rank: int = 64,
        targets: tuple[str, ...] = ("",),
        metadata: Mapping[str, str] | None = None,
    ) -> Path:
        header: dict[str, object] = {"__metadata__": dict(metadata or {"format": "pt"})}
        end = 0
        for layer, (out, inner, *kernel) in layers(config).items():
            if not layer.endswith(targets):
                continue
            key = "lora_unet_" + layer.removeprefix("unet.").replace(".", "_")
            ones = [1] * len(kernel)
            for leaf, shape in (
                ("lora_down.weight", [rank, inner, *kernel]),
                ("lora_up.weight", [out, rank, *ones]),
                ("alpha", []),
            ):
                size = 2
                for side in shape:
                    size *= side
                header[f"{key}.{leaf}"] = {
                    "dtype": "F16",
                    "shape": shape,
                    "data_offsets": [end, end + size],
                }
                end += size
        text = json.dumps(header).encode()
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
        return path

    return write


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lcm-lora-sdxl/pytorch_lora_weights", Sampling("LCM-LoRA", "lcm", None, 4)),
        ("LCM_LoRA_SDv15_8steps", Sampling("LCM-LoRA", "lcm", None, 8)),
        ("TCD-SD15-LoRA", Sampling("TCD-LoRA", "tcd", None, 4)),
        ("sdxl_lightning_8step_lora", Sampling("SDXL-Lightning", "euler", "trailing", 8)),
        ("Hyper-SD15-1step-lora", Sampling("Hyper-SD", "tcd", None, 1)),
        ("Hyper-SDXL-4steps-lora", Sampling("Hyper-SD", "ddim", "trailing", 4)),
        ("Hyper-SDXL-8steps-CFG-lora", Sampling("Hyper-SD", "ddim", "trailing", 8, 5.0)),
        ("dmd2_sdxl_4step_lora_fp16", Sampling("DMD2", "lcm", "trailing", 4)),
        ("lcm_portraits_2000steps", Sampling("LCM-LoRA", "lcm", None, 4)),  # of its training
        ("lightning_bolts_style", None),
        ("hyperrealism", None),
        ("robot", None),
    ],
)
def test_recognised_by_name(write: Write, name: str, expected: Sampling | None) -> None:
    assert speed_sampling(write(f"{name}.safetensors", targets=ATTENTION)) == expected


def test_recognised_by_the_name_in_its_metadata(write: Write) -> None:
    told = {"ss_output_name": "sdxl_lightning_2step_lora"}
    found = speed_sampling(write("fast.safetensors", targets=ATTENTION, metadata=told))
    assert found == Sampling("SDXL-Lightning", "euler", "trailing", 2)


@pytest.mark.parametrize(("config", "count"), [("sd15", 278), ("sdxl", 788)])
def test_lcm_lora_is_recognised_by_its_layers(write: Write, config: str, count: int) -> None:
    """67.5 and 197 million numbers, as its paper counts them."""
    assert len(layers(config)) == count
    found = speed_sampling(write("renamed.safetensors", config))
    assert found == Sampling("LCM-LoRA, by its layers", "lcm", None, 4)


@pytest.mark.parametrize(
    "other",
    [
        {"rank": 32},
        {"targets": ATTENTION},
        {"metadata": {"ss_network_module": "networks.lora", "ss_sd_model_name": "base"}},
    ],
)
def test_a_lora_of_another_size_or_with_a_training_behind_it_is_not(
    write: Write, other: dict
) -> None:
    assert speed_sampling(write("renamed.safetensors", **other)) is None


def test_what_the_user_has_set_stays() -> None:
    sampling = Sampling("SDXL-Lightning", "euler", "trailing", 4)
    assert sampling.fields() == {
        "scheduler": "euler", "spacing": "trailing", "steps": 4, "guidance": 1.0
    }  # fmt: skip
    assert sampling.fields({"steps"}).keys() == {"scheduler", "spacing", "guidance"}
    assert sampling.fields({"scheduler"}).keys() == {"steps", "guidance"}


def test_studio_s_own_files_say_it_themselves(write: Write) -> None:
    def told(**sampling: object) -> Path:
        stored = {"kind": "lcm", "family": "sd1", "base": "b", "fingerprint": "", "name": ""}
        stored |= {"triggers": [], "recipe": {"sampling": sampling}, "version": 1}
        metadata = {"studio": json.dumps(stored)}
        return write(f"own{len(sampling)}.safetensors", rank=4, metadata=metadata)

    own = told(name="LCM", scheduler="lcm", steps=4, guidance=1.0)
    assert speed_sampling(own) == Sampling("LCM", "lcm", None, 4, 1.0)
    alone = speed_sampling(told(name="guidance distilled", guidance=1.0))
    assert alone and alone.fields() == {"guidance": 1.0}
    assert speed_sampling(told(name="LCM", scheduler="newest", steps=4)) is None
