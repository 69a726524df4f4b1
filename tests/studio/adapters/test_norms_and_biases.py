"""Changes of normalisations and biases, as LyCORIS, ComfyUI and peft write them.

The oracles are LyCORIS's and peft's own merged weights, and for ComfyUI's names the formula.
"""

import copy
from pathlib import Path
from typing import Any, cast

import lycoris
import peft
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from studio.adapters.adapter import Adapter
from studio.adapters.compatibility import check_fits
from studio.adapters.delta import BiasOnly, Delta, Dense, Kron, LowRank
from studio.adapters.formats.convert import to_diffusers, to_kohya, to_lycoris
from studio.adapters.formats.names import kohya_name, layer_name
from studio.adapters.load import load_adapter
from studio.adapters.rescale import scale_adapter
from studio.adapters.tensor_file import write_tensors
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.bases.real_config import real_config
from studio.errors import BadInput
from tests.compose.conftest import open_pipeline

NORM = "unet.mid_block.attentions.0.transformer_blocks.0.norm1"
TO_Q = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
TO_OUT = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
TEXT_NORM = "text_encoder.text_model.encoder.layers.0.layer_norm1"


# peft takes the vector of a bias for a part of a tensor that was torn apart.
pytestmark = pytest.mark.filterwarnings("ignore:.*invalid shape")


@pytest.fixture(scope="module")
def base(sd1_folder: Path) -> Base:
    return load_base(sd1_folder)


def changed(base: Base, adapter: Adapter) -> dict[str, Tensor]:
    """All weights and biases of the UNet with the adapter at strength 1."""
    found = {name: tensor.clone() for name, tensor in base.unet.state_dict().items()}
    for layer, delta in adapter.deltas.items():
        name = layer.removeprefix("unet.")
        found[f"{name}.weight"] += delta.dense(found[f"{name}.weight"]).detach()
        if delta.bias is not None:
            found[f"{name}.bias"] += delta.bias.detach()
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], base: Base) -> None:
    own = base.unet.state_dict()
    assert any(not torch.equal(expected[name], own[name]) for name in own)
    for name in own:
        assert torch.allclose(found[name], expected[name], atol=1e-5), name


def test_norms_that_lycoris_trains_are_applied(base: Base, tmp_path: Path) -> None:
    unet: Any = copy.deepcopy(base.unet)
    network: Any = lycoris.create_lycoris(
        unet, 1.0, linear_dim=2, linear_alpha=1, algo="lora", train_norm=True
    )
    network.apply_to()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    save_file(network.state_dict(), tmp_path / "norms.safetensors")
    network.restore()
    network.merge_to(1.0)
    adapter = load_adapter(tmp_path / "norms.safetensors", base=base)
    assert check_fits(adapter, base).missing == ()
    norms = [name for name, delta in adapter.deltas.items() if len(delta.shape) == 1]
    assert len(norms) == sum(isinstance(m, nn.LayerNorm | nn.GroupNorm) for m in unet.modules())
    assert_same(changed(base, adapter), unet.state_dict(), base)


def test_biases_that_peft_trains_are_applied(base: Base, tmp_path: Path) -> None:
    config = peft.LoraConfig(
        r=4, lora_alpha=6, use_rslora=True, lora_bias=True, target_modules=["to_out.0", "conv1"]
    )
    model: Any = peft.get_peft_model(copy.deepcopy(base.unet), config)  # pyright: ignore
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path)
    expected = model.merge_and_unload().state_dict()
    assert_same(changed(base, load_adapter(tmp_path, base=base)), expected, base)


COMFY = "diffusion_model.middle_block.1.transformer_blocks.0"


def comfy_tensors() -> dict[str, Tensor]:
    """ComfyUI's names: `.diff` of a vector, `.diff_b` beside a LoRA and alone."""
    tensors = {
        f"{COMFY}.norm1.diff": torch.randn(64),
        f"{COMFY}.norm1.diff_b": torch.randn(64),
        f"{COMFY}.norm2.diff_b": torch.randn(64),
        f"{COMFY}.attn1.to_out.0.lora_down.weight": torch.randn(2, 64),
        f"{COMFY}.attn1.to_out.0.lora_up.weight": torch.randn(64, 2),
        f"{COMFY}.attn1.to_out.0.alpha": torch.tensor(1.0),
        f"{COMFY}.attn1.to_out.0.diff_b": torch.randn(64),
        f"{COMFY}.attn2.to_out.0.diff_b": torch.randn(64),
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.layer_norm1.diff": (
            torch.randn(32)
        ),
    }
    return tensors


def test_vectors_in_comfyuis_names_are_applied(base: Base, tmp_path: Path) -> None:
    tensors = comfy_tensors()
    save_file(tensors, tmp_path / "comfy.safetensors")
    deltas = load_adapter(tmp_path / "comfy.safetensors", base=base).deltas
    zeros = torch.zeros(64)
    assert torch.equal(deltas[NORM].dense(zeros), tensors[f"{COMFY}.norm1.diff"])
    text = [tensor for key, tensor in tensors.items() if key.startswith("text_encoders")]
    assert torch.equal(deltas[TEXT_NORM].dense(torch.zeros(32)), text[0])
    for layer, key in (
        (NORM, "norm1"),
        (NORM.replace("norm1", "norm2"), "norm2"),
        (TO_OUT, "attn1.to_out.0"),
        (TO_OUT.replace("attn1", "attn2"), "attn2.to_out.0"),
    ):
        bias = deltas[layer].bias
        assert bias is not None
        assert torch.allclose(bias, tensors[f"{COMFY}.{key}.diff_b"], atol=1e-6)
    down, up = (tensors[f"{COMFY}.attn1.to_out.0.lora_{x}.weight"] for x in ("down", "up"))
    assert torch.allclose(deltas[TO_OUT].dense(torch.zeros(64, 64)), up @ down / 2, atol=1e-5)


def biased() -> dict[str, Delta]:
    """Every form that changes a bias or a normalisation."""
    return {
        NORM: Dense(torch.randn(64), torch.randn(64)),
        NORM.replace("norm1", "norm2"): BiasOnly(torch.randn(64)),
        TO_OUT: LowRank(torch.randn(2, 64), torch.randn(64, 2), 3.0, up_bias=torch.randn(64)),
        TO_OUT.replace("attn1", "attn2"): Kron(
            torch.randn(4, 4), torch.randn(16, 16), scale=0.5, bias=torch.randn(64)
        ),
        TEXT_NORM: Dense(torch.randn(32)),
    }


def assert_equal_changes(one: Adapter, two: Adapter) -> None:
    assert one.deltas.keys() == two.deltas.keys()
    for layer, delta in one.deltas.items():
        other, weight = two.deltas[layer], torch.randn(delta.shape or (64, 64))
        assert torch.allclose(delta.dense(weight), other.dense(weight), atol=1e-5), layer
        if delta.bias is None or other.bias is None:
            assert delta.bias is other.bias
        else:
            assert torch.allclose(delta.bias, other.bias, atol=1e-5), layer


@pytest.mark.parametrize("how", ["studio", "lycoris"])
def test_they_survive_a_file(tmp_path: Path, how: str) -> None:
    adapter, path = Adapter(deltas=biased(), family="sd1"), tmp_path / "a.safetensors"
    if how == "studio":
        adapter.save(path)
        first = path.read_bytes()
        assert load_adapter(path).save(path).read_bytes() == first
    else:
        write_tensors(path, *to_lycoris(adapter))
    assert_equal_changes(load_adapter(path), adapter)


def test_biases_load_in_diffusers(sd1_folder: Path, base: Base, tmp_path: Path) -> None:
    deltas: dict[str, Delta] = {
        TO_OUT: biased()[TO_OUT],
        TO_OUT.replace("attn1", "attn2"): LowRank(torch.randn(2, 64), torch.randn(64, 2), 3.0),
    }
    adapter = Adapter(deltas=deltas, family="sd1")
    write_tensors(tmp_path / "a.safetensors", *to_diffusers(adapter))
    pipe: Any = open_pipeline(sd1_folder)
    pipe.load_lora_weights(tmp_path / "a.safetensors")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    assert_same(changed(base, adapter), pipe.unet.state_dict(), base)


def test_a_strength_scales_biases_too() -> None:
    adapter = Adapter(deltas=biased(), family="sd1")
    half = scale_adapter(adapter, 0.5)
    for layer, delta in adapter.deltas.items():
        scaled, weight = half.deltas[layer], torch.zeros(delta.shape or (64, 64))
        assert torch.allclose(scaled.dense(weight), 0.5 * delta.dense(weight), atol=1e-6)
        assert (scaled.bias is None) == (delta.bias is None)
        if scaled.bias is not None and delta.bias is not None:
            assert torch.allclose(scaled.bias, 0.5 * delta.bias)


@pytest.mark.parametrize("layer", [TO_OUT, TO_OUT.replace("attn1", "attn2")])
def test_a_layer_in_training_has_its_bias(layer: str) -> None:
    delta = biased()[layer]
    assert delta.bias is not None and not isinstance(delta, Dense)
    linear, x = nn.Linear(64, 64), torch.randn(3, 64)
    expected = nn.functional.linear(x, linear.weight + delta.dense(linear.weight), linear.bias)
    assert torch.allclose(delta(linear, x), expected + delta.bias, atol=1e-4)


def test_what_other_formats_cannot_hold_is_refused() -> None:
    low = biased()[TO_OUT]
    with pytest.raises(BadInput, match=r"hold no changes of biases, as .*to_out.0"):
        to_kohya(Adapter(deltas={TO_OUT: low}, family="sd1"))
    with pytest.raises(BadInput, match="1 of this adapter's 1 are of another form"):
        to_diffusers(Adapter(deltas={NORM: Dense(torch.ones(64))}, family="sd1"))
    cast(LowRank, low).magnitude = nn.Parameter(torch.ones(64))
    with pytest.raises(BadInput, match="no DoRA that changes biases"):
        to_diffusers(Adapter(deltas={TO_OUT: low}, family="sd1"))


def test_a_vector_that_the_base_has_otherwise_is_refused(base: Base) -> None:
    with pytest.raises(BadInput, match=r"changes the bias of .*to_q, which has none"):
        check_fits(Adapter(deltas={TO_Q: BiasOnly(torch.ones(64))}), base)
    with pytest.raises(BadInput, match=r"its bias of .*norm1 has 32 numbers, .* has 64"):
        check_fits(Adapter(deltas={NORM: BiasOnly(torch.ones(32))}), base)
    with pytest.raises(BadInput, match=r"its .*norm1 is 32, and that of .* is 64"):
        check_fits(Adapter(deltas={NORM: Dense(torch.ones(32))}), base)
    with pytest.raises(BadInput, match=r"its .*to_q is 64, and that of .* is 64 x 64"):
        check_fits(Adapter(deltas={TO_Q: Dense(torch.ones(64))}), base)


def test_a_bias_of_another_length_than_its_layer_is_refused(tmp_path: Path) -> None:
    tensors = {"lora_down.weight": torch.ones(2, 64), "lora_up.weight": torch.ones(64, 2)}
    tensors["diff_b"] = torch.ones(32)
    save_file({f"{TO_OUT}.{k}": v for k, v in tensors.items()}, tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match="has a bias of 32"):
        load_adapter(tmp_path / "a.safetensors")


@pytest.mark.parametrize("shape", [(64,), (1, 64)])
def test_a_normalisation_has_no_magnitudes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tensors = {f"{NORM}.diff": torch.ones(64), f"{NORM}.dora_scale": torch.ones(shape)}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match="norm1 has magnitudes, and a normalisation has no rows"):
        load_adapter(tmp_path / "a.safetensors")


@pytest.mark.parametrize(("config", "family"), [("sd15", "sd1"), ("sd21", "sd2"), ("sdxl", "sdxl")])
def test_every_norm_of_the_real_models_maps_to_kohya_and_back(config: str, family: str) -> None:
    base = real_config(config)
    norms = base.layers_and_norms().keys() - base.layers().keys()
    assert len(norms) > 100
    for layer in norms:
        assert layer_name(kohya_name(layer, family)) == layer_name(layer) == layer
