"""What a file is, told from its header: alphas, and how many of its layers a base has."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from studio.adapters.adapter_header import read_adapter_header
from studio.adapters.compatibility import check_header
from studio.adapters.describe import describe
from studio.adapters.safetensors_header import read_header, read_number
from studio.adapters.tensor_file import NAMES
from studio.bases.real_config import real_config
from studio.errors import BadInput

BLOCK = "unet.mid_block.attentions.0.transformer_blocks.0"


def lora(layer: str, out: int = 1280, inner: int = 1280) -> dict[str, torch.Tensor]:
    return {
        f"{layer}.lora_A.weight": torch.zeros(4, inner),
        f"{layer}.lora_B.weight": torch.zeros(out, 4),
    }


@pytest.mark.parametrize("dtype", [one for one in NAMES if one != torch.bool], ids=str)
def test_alphas_are_those_of_the_tensors_or_the_ranks(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = lora(f"{BLOCK}.attn1.to_q") | lora(f"{BLOCK}.attn1.to_k")
    tensors[f"{BLOCK}.attn1.to_q.alpha"] = torch.tensor(3).to(dtype)
    save_file(tensors, tmp_path / "a.safetensors")
    told = describe(tmp_path / "a.safetensors")
    assert (told["alphas"], told["ranks"]) == ({"3": 1, "4": 1}, {"4": 2})


def test_every_number_of_eight_bits_is_read(tmp_path: Path) -> None:
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    tensors = {str(at): one for at, one in enumerate(numbers) if one.float().isfinite()}
    save_file(tensors, tmp_path / "a.safetensors")
    header = read_header(tmp_path / "a.safetensors")
    for key, one in tensors.items():
        assert read_number(tmp_path / "a.safetensors", header, key) == float(one)


def test_alphas_are_those_of_pefts_configuration(tmp_path: Path) -> None:
    tensors = lora(f"{BLOCK}.attn1.to_q") | lora(f"{BLOCK}.attn1.to_k")
    config = {"unet.lora_alpha": 2.5, "unet.alpha_pattern": {r"attn1\.to_k": 7}}
    metadata = {"lora_adapter_metadata": json.dumps(config)}
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    assert describe(tmp_path / "a.safetensors")["alphas"] == {"2.5": 1, "7": 1}


BESIDE = {
    "LoRA with DoRA": ({"dora_scale": (1280, 1)}, {"4": 2}, {"2": 1, "4": 1}),
    "LoHa": (
        {"hada_w1_a": (1280, 3), "hada_w1_b": (3, 1280)}
        | {"hada_w2_a": (1280, 3), "hada_w2_b": (3, 1280)},
        {"3": 1, "4": 1},
        {"2": 1, "4": 1},
    ),
    "LoKr": (
        {"lokr_w1": (16, 16), "lokr_w2_a": (80, 5), "lokr_w2_b": (5, 80)},
        {"4": 1, "5": 1},
        {"2": 1, "4": 1},
    ),
    "OFT": ({"oft_blocks": (8, 160, 160)}, {"4": 1}, {"4": 1}),
    "whole weights": ({"diff": (1280, 1280)}, {"4": 1}, {"4": 1}),
    "normalisations": ({"w_norm": (1280,), "b_norm": (1280,)}, {"4": 1}, {"4": 1}),
    "biases": ({"diff_b": (1280,)}, {"4": 1}, {"4": 1}),
}


@pytest.mark.parametrize("what", BESIDE)
def test_a_file_is_told_by_its_kinds_ranks_and_alphas(tmp_path: Path, what: str) -> None:
    """A layer of each kind, of alpha 2, beside a LoRA of rank 4 that states none."""
    shapes, ranks, alphas = BESIDE[what]
    layer = f"{BLOCK}.norm1" if what == "normalisations" else f"{BLOCK}.attn1.to_k"
    tensors = {f"{layer}.{leaf}": torch.zeros(*shape) for leaf, shape in shapes.items()}
    if what == "LoRA with DoRA":
        tensors |= lora(layer)
    if what not in ("normalisations", "biases"):
        tensors[f"{layer}.alpha"] = torch.tensor(2.0)
    save_file(lora(f"{BLOCK}.attn1.to_q") | tensors, tmp_path / "a.safetensors")
    told = describe(tmp_path / "a.safetensors")
    assert sorted(str(told["what"]).split(", ")) == sorted(["LoRA", what])
    assert (told["ranks"], told["alphas"]) == (ranks, alphas)
    assert told["blocks"] == ({"8 of 160": 1} if what == "OFT" else {})


def test_layers_are_counted_on_a_base_without_loading(tmp_path: Path) -> None:
    base, file = real_config("sdxl"), tmp_path / "a.safetensors"
    lacking = "unet.down_blocks.7.attentions.0.proj_in"
    save_file(lora(f"{BLOCK}.attn1.to_q") | lora(lacking), file)
    coverage = check_header(read_adapter_header(file), base)
    assert coverage.sentence == "1 of 2 layers matched, base sdxl"
    assert coverage.missing == (lacking,)
    save_file(lora(f"{BLOCK}.attn1.to_q", out=640), file)
    with pytest.raises(BadInput, match="is 640 x 1280, and that of sdxl is 1280 x 1280"):
        check_header(read_adapter_header(file), base)
