"""Files that are not for Studio are refused by what they are, and by their first tensors."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from studio.adapters.load import load_adapter
from studio.errors import BadInput

AB = ("lora_A.weight", "lora_B.weight")
UD = ("lora_down.weight", "lora_up.weight")
Q = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
FLUX = "transformer.single_transformer_blocks.0.attn.to_q"
FILES = {
    "a LoRA of Flux, not of": [f"{FLUX}.{x}" for x in AB],
    "a LoRA of Flux": [f"lora_unet_double_blocks_0_img_attn_qkv.{x}" for x in UD],
    "a part of Flux": ["double_blocks.0.img_attn.qkv.weight"],
    "a LoRA of Stable Diffusion 3": [
        f"transformer.transformer_blocks.0.attn.add_k_proj.{x}" for x in AB
    ],
    "a LoRA of AnimateDiff": [
        f"down_blocks.0.motion_modules.0.temporal_transformer.proj_in.{x}" for x in UD
    ],
    "a LoRA of Wan": [f"diffusion_model.blocks.0.self_attn.q.{x}" for x in AB],
    "an IA3 adapter": [f"{Q}.weight", f"{Q}.on_input"],
    "a GLoRA adapter": [f"{Q}.{x}.weight" for x in ("a1", "a2", "b1", "b2")],
    "a whole checkpoint, which is given as the base": [
        "model.diffusion_model.input_blocks.0.0.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
    ],
    "a VAE": ["first_stage_model.encoder.conv_in.weight"],
    "a ControlNet": ["control_model.input_blocks.0.0.weight"],
    "a whole UNet": ["conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"],
    "holds no adapter that Studio knows": ["layers.0.weight", "layers.1.weight"],
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_is_refused_by_what_it_is(tmp_path: Path, what: str) -> None:
    file = tmp_path / "given.safetensors"
    save_file({key: torch.ones(4, 4) for key in FILES[what]}, file)
    with pytest.raises(BadInput, match=f"{what}.*: its tensors are {min(FILES[what])}") as refused:
        load_adapter(file)
    assert "damaged" not in str(refused.value)


def test_a_lora_of_which_a_part_is_not_known_names_that_part(tmp_path: Path) -> None:
    keys = [f"{Q}.{x}" for x in UD] + [f"lora_te3_encoder_block_0_layer_0.{x}" for x in UD]
    save_file({key: torch.ones(4, 4) for key in keys}, tmp_path / "given.safetensors")
    words = r"2 of 4 tensors that .*, as of a LoRA of Stable Diffusion 3, .*: lora_te3_encoder"
    with pytest.raises(BadInput, match=words):
        load_adapter(tmp_path / "given.safetensors")
