"""Files that are not for Studio are refused by what they are, and by their first tensors."""

import json
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
    "a LoRA of Flux or a model built like it, not of": [f"{FLUX}.{x}" for x in AB],
    "a LoRA of Flux": [f"lora_unet_double_blocks_0_img_attn_qkv.{x}" for x in UD],
    "an adapter of Flux": ["lycoris_single_blocks_0_linear1.lokr_w1"],
    "a part of Flux": ["double_blocks.0.img_attn.qkv.weight"],
    "a LoRA of Stable Diffusion 3": [
        f"transformer.transformer_blocks.0.attn.add_k_proj.{x}" for x in AB
    ],
    "a LoRA of AnimateDiff": [
        f"down_blocks.0.motion_modules.0.temporal_transformer.proj_in.{x}" for x in UD
    ],
    "a LoRA of AnimateDiff or another video": [
        f"unet.down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn1.to_q.{x}" for x in AB
    ],
    "a LoRA of Wan": [f"diffusion_model.blocks.0.self_attn.q.{x}" for x in AB],
    "a LoRA of Lumina": [f"diffusion_model.layers.0.attention.to_q.{x}" for x in AB],
    "a LoRA of a diffusion transformer": [f"transformer_blocks.0.attn1.to_q.{x}" for x in AB],
    "a LoRA of a diffusion transformer, not": [
        f"lora_unet_transformer_blocks_0_attn1_to_q.{x}" for x in UD
    ],
    "a LoRA of a diffusion transformer, not of Stable": [
        f"diffusion_model.transformer_blocks.0.attn1.to_q.{x}" for x in AB
    ],
    "a LoRA of a language model": [
        f"base_model.model.model.layers.0.self_attn.q_proj.{x}" for x in AB
    ],
    "an adapter whose names are not those of": [f"text_encoder.layers.0.mlp.fc1.{x}" for x in AB],
    "an IA3 adapter": [f"{Q}.weight", f"{Q}.on_input"],
    "a GLoRA adapter": [f"{Q}.{x}.weight" for x in ("a1", "a2", "b1", "b2")],
    "a Control-LoRA": ["lora_controlnet", "input_blocks.1.0.in_layers.2.down"],
    "a whole checkpoint, which is given as the base": [
        "model.diffusion_model.input_blocks.0.0.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
    ],
    "a VAE": ["first_stage_model.encoder.conv_in.weight"],
    "a ControlNet": ["control_model.input_blocks.0.0.weight"],
    "a whole UNet": ["conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"],
    "no adapter that Studio knows": ["layers.0.weight", "layers.1.weight"],
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_is_refused_by_what_it_is(tmp_path: Path, what: str) -> None:
    file = tmp_path / "given.safetensors"
    save_file({key: torch.ones(4, 4) for key in FILES[what]}, file)
    with pytest.raises(BadInput, match=f"{what}.*: its tensors are {min(FILES[what])}") as refused:
        load_adapter(file)
    assert "damaged" not in str(refused.value)
    more = len(FILES[what]) - 3
    assert str(refused.value).endswith(f" and {more} more") == (more > 0)


def test_a_base_is_no_adapter(sd1_folder: Path) -> None:
    with pytest.raises(BadInput, match="is a base, not an adapter: give it with --base"):
        load_adapter(sd1_folder)


def test_what_other_models_and_kinds_share_with_ours_does_not_hide_them(tmp_path: Path) -> None:
    """CLIP is in Flux too, and every kind has alphas."""
    text = [f"lora_te1_text_model_encoder_layers_0_mlp_fc1.{x}" for x in UD]
    flux = {key: torch.ones(4, 4) for key in (*text, *FILES["a LoRA of Flux"])}
    save_file(flux, tmp_path / "a.safetensors", {"modelspec.architecture": "flux-1-dev/lora"})
    with pytest.raises(BadInput, match=r"is a LoRA of Flux .* \(its metadata says flux-1-dev/lora"):
        load_adapter(tmp_path / "a.safetensors")
    glora = {key: torch.ones(4, 4) for key in FILES["a GLoRA adapter"]}
    save_file(glora | {f"{Q}.alpha": torch.tensor(1.0)}, tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match="is a GLoRA adapter, which Studio doesn't read"):
        load_adapter(tmp_path / "a.safetensors")


@pytest.mark.parametrize("entry", ["modelspec.architecture", "ss_base_model_version"])
def test_another_model_that_only_the_metadata_tells_is_refused(tmp_path: Path, entry: str) -> None:
    keys = [f"lora_te1_text_model_encoder_layers_0_mlp_fc1.{x}" for x in UD]
    tensors, file = {key: torch.ones(4, 4) for key in keys}, tmp_path / "given.safetensors"
    save_file(tensors, file, {entry: "flux1"})
    with pytest.raises(BadInput, match="is for another model, as its metadata says: flux1"):
        load_adapter(file)
    save_file(tensors, file, {entry: "sdxl_base_v1-0"})
    assert load_adapter(file).deltas


@pytest.mark.parametrize("kind", ["HRA", "FOURIERFT", "ADALORA", "BOFT"])
def test_a_kind_of_peft_that_is_not_read_is_named(tmp_path: Path, kind: str) -> None:
    key = f"base_model.model.mid_block.attentions.0.proj_in.{kind.lower()}_u"
    save_file({key: torch.ones(4, 4)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
    with pytest.raises(BadInput, match=f"is of peft's kind {kind}, which Studio doesn't"):
        load_adapter(tmp_path)


def test_a_lora_of_which_a_part_is_not_known_names_that_part(tmp_path: Path) -> None:
    keys = [f"{Q}.{x}" for x in UD] + [f"lora_te3_encoder_block_0_layer_0.{x}" for x in UD]
    save_file({key: torch.ones(4, 4) for key in keys}, tmp_path / "given.safetensors")
    words = r"2 of 4 tensors that .*, as of a LoRA of Stable Diffusion 3 or .*: lora_te3_encoder"
    with pytest.raises(BadInput, match=words):
        load_adapter(tmp_path / "given.safetensors")
