"""OFT files of peft, OneTrainer, kohya and LyCORIS, and the rotation that all of them become.

The oracles are peft's and LyCORIS's merged weights, peft's rotation module for OneTrainer's scaled
form, and kohya's formula written out.
"""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import lycoris
import peft
import pytest
import torch
from peft.tuners.oft.layer import OFTRotationModule
from safetensors.torch import save_file
from torch import Tensor, nn

from compose import Merge, Switch, render
from studio.adapters.adapter import Adapter
from studio.adapters.compatibility import check_fits
from studio.adapters.delta import Rotation
from studio.adapters.formats.convert import to_lycoris
from studio.adapters.load import load_adapter
from studio.adapters.rescale import scale_adapter
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.errors import BadInput
from studio.requests.shot import Shot
from tests.compose.conftest import ByHand

BLOCK = "mid_block.attentions.0.transformer_blocks.0"
TO_Q = f"unet.{BLOCK}.attn1.to_q"


@pytest.fixture(scope="module")
def base(sd1_folder: Path) -> Base:
    return load_base(sd1_folder)


class Part(nn.Module):
    """The middle block alone, under its name in the UNet."""

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.mid_block = copy.deepcopy(base.unet.mid_block)


def assert_same_weights(adapter: Adapter, own: Any, expected: dict[str, Tensor]) -> None:
    changed = [name for name, weight in own.items() if not torch.equal(weight, expected[name])]
    assert changed
    assert sorted(adapter.deltas) == sorted(f"unet.{name[:-7]}" for name in changed)
    for name in changed:
        found = own[name] + adapter.deltas[f"unet.{name[:-7]}"].dense(own[name])
        assert torch.allclose(found, expected[name], atol=1e-5), name


@pytest.mark.parametrize("terms", [None, 1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("shared", [False, True])
def test_peft_rotates_inputs(base: Base, tmp_path: Path, terms: int | None, shared: bool) -> None:
    config = peft.OFTConfig(
        r=0,
        oft_block_size=8,
        block_share=shared,
        use_cayley_neumann=terms is not None,
        num_cayley_neumann_terms=terms or 5,
        target_modules=["to_q", "ff.net.2", "proj_in"],
    )
    part = Part(base)
    own = {name: weight.clone() for name, weight in part.state_dict().items()}
    model: Any = peft.get_peft_model(part, config)  # pyright: ignore[reportArgumentType]
    for name, parameter in model.named_parameters():
        if "oft_" in name:
            nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path)
    expected = model.merge_and_unload().state_dict()
    if terms == 1:  # the identity
        assert all(torch.equal(own[name], expected[name]) for name in own)
        return
    assert_same_weights(load_adapter(tmp_path, base=base), own, expected)


@pytest.mark.parametrize("scaled", [False, True])
def test_onetrainer_rotates_inputs_and_may_scale(tmp_path: Path, scaled: bool) -> None:
    upper = 0.3 * torch.randn(8, 28)
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.oft_R"
    tensors = {f"{key}.weight": upper}
    if scaled:
        tensors[f"{key}.scaled_oft"] = torch.tensor(True)
    save_file(tensors, tmp_path / "onetrainer.safetensors")
    delta = load_adapter(tmp_path / "onetrainer.safetensors").deltas[TO_Q]
    theirs = OFTRotationModule(8, 28, 8, 64)
    theirs.weight.data = upper / (2 * 7**0.5) if scaled else upper
    weight, x = torch.randn(48, 64), torch.randn(3, 64)
    expected = theirs(x) @ weight.T
    assert torch.allclose(x @ (weight + delta.dense(weight)).T, expected, atol=1e-4)


@pytest.mark.parametrize("alpha", [1e-3, 10.0])
@pytest.mark.parametrize("shape", [(32, 16), (32, 16, 3, 3)])
def test_kohya_rotates_outputs_up_to_a_norm(
    tmp_path: Path, alpha: float, shape: tuple[int, ...]
) -> None:
    blocks, weight = torch.randn(4, 8, 8), torch.randn(shape)
    layer = "attentions_0_transformer_blocks_0_attn1_to_q" if len(shape) == 2 else "resnets_0_conv1"
    name = f"oft_unet_mid_block_{layer}"
    tensors = {f"{name}.oft_blocks": blocks, f"{name}.alpha": torch.tensor(alpha)}
    save_file(tensors, tmp_path / "kohya.safetensors")
    (delta,) = load_adapter(tmp_path / "kohya.safetensors").deltas.values()
    skew = blocks - blocks.transpose(1, 2)
    skew = skew * (skew.norm().clamp(max=alpha * 32) / skew.norm())
    one = torch.eye(8)
    rotation = (one + skew) @ (one - skew).inverse()
    expected = torch.einsum("knm,kn...->km...", rotation, weight.view(4, 8, *shape[1:]))
    assert torch.allclose(weight + delta.dense(weight), expected.reshape(shape), atol=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"rescaled": True}, {"constraint": 1e-3}, {"constraint": 1.0}], ids=str
)
def test_lycoris_rotates_outputs(base: Base, tmp_path: Path, options: dict[str, Any]) -> None:
    part = Part(base)
    own = {name: weight.clone() for name, weight in part.state_dict().items()}
    network: Any = lycoris.create_lycoris(part, 1.0, linear_dim=8, algo="diag-oft", **options)
    network.apply_to()
    for name, parameter in network.named_parameters():
        nn.init.normal_(parameter, mean=1.0 if "rescale" in name else 0.0, std=0.1)
    save_file(network.state_dict(), tmp_path / "lycoris.safetensors")
    network.restore()
    network.merge_to(1.0)
    adapter = load_adapter(tmp_path / "lycoris.safetensors", base=base)
    assert_same_weights(adapter, own, part.state_dict())


def rotations() -> Adapter:
    """One of each kind: of outputs, of inputs, of inputs by one block for all."""
    deltas = {
        TO_Q: Rotation(torch.eye(8) + 0.1 * torch.randn(8, 8, 8)),
        TO_Q.replace("to_q", "to_k"): Rotation(
            torch.eye(16) + 0.1 * torch.randn(4, 16, 16), of_inputs=True
        ),
        TO_Q.replace("to_q", "to_v"): Rotation(
            torch.eye(16) + 0.1 * torch.randn(1, 16, 16), of_inputs=True, shared=True
        ),
    }
    return Adapter(deltas=dict(deltas), family="sd1")


def test_a_rotation_survives_its_file(tmp_path: Path) -> None:
    adapter, path = rotations(), tmp_path / "a.safetensors"
    again = load_adapter(adapter.save(path))
    weight = torch.randn(64, 64)
    for layer, delta in adapter.deltas.items():
        assert torch.equal(again.deltas[layer].dense(weight), delta.dense(weight))
    first = path.read_bytes()
    assert again.save(path).read_bytes() == first
    with pytest.raises(BadInput, match="keep the file that it was read from"):
        to_lycoris(adapter)


def test_a_strength_scales_a_rotations_change() -> None:
    adapter, weight = rotations(), torch.randn(64, 64)
    half = scale_adapter(adapter, 0.5)
    for layer, delta in adapter.deltas.items():
        assert torch.allclose(half.deltas[layer].dense(weight), delta.dense(weight) / 2, atol=1e-5)


@pytest.mark.parametrize("method", [Merge(), Switch(1)], ids=["merge", "switch"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_picture_is_that_of_weights_changed_by_hand(
    base: Base, method: Merge | Switch, strength: float
) -> None:
    turned = rotations()
    shot = Shot("a cat", steps=2, adapters=((turned, strength),))
    hand = ByHand(base, shot)
    expected = hand.run(lambda step: hand.eps([(turned, strength, None)]))
    plain = render(base, dataclasses.replace(shot, adapters=()), output="latents")
    ours = render(base, dataclasses.replace(shot, method=method), output="latents")
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, plain, rtol=1e-3, atol=1e-3)


def test_a_layer_in_training_is_rotated() -> None:
    delta, linear, x = rotations().deltas[TO_Q], nn.Linear(64, 64), torch.randn(3, 64)
    whole = linear.weight + delta.dense(linear.weight)
    expected = nn.functional.linear(x, whole, linear.bias)
    assert torch.allclose(delta(linear, x), expected, atol=1e-5)


def test_blocks_that_are_not_the_bases_are_refused(base: Base) -> None:
    few = Adapter(deltas={TO_Q: Rotation(torch.zeros(3, 8, 8))})
    with pytest.raises(BadInput, match=r"rotates outputs of .*to_q in 3 blocks of 8, which don't"):
        check_fits(few, base)


@pytest.mark.parametrize(
    "tensors",
    [
        {"oft_blocks": torch.ones(2, 8, 4)},
        {"oft_R.weight": torch.ones(2, 28), "alpha": torch.ones(())},
        {"oft_blocks": torch.ones(2, 8, 8), "oft_R.scaled_oft": torch.tensor(True)},
        {"oft_blocks": torch.ones(2, 8, 8), "dora_scale": torch.ones(16, 1)},
        {"rotation_in": torch.ones(2, 8, 8), "rescale": torch.ones(16, 1)},
    ],
)
def test_other_rotations_are_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({f"{TO_Q}.{leaf}": one for leaf, one in tensors.items()}, tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match=r"of a form that Studio doesn't read: .* do not fit"):
        load_adapter(tmp_path / "a.safetensors")


def test_boft_is_named(tmp_path: Path) -> None:
    blocks = torch.ones(2, 3, 8, 8)
    save_file({f"{TO_Q}.oft_blocks": blocks}, tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match=r"is a BOFT adapter, .*: .*to_q has oft_blocks \[2, 3, 8"):
        load_adapter(tmp_path / "a.safetensors")


def test_a_triangle_of_no_square_is_refused(tmp_path: Path) -> None:
    save_file({f"{TO_Q}.oft_R.weight": torch.ones(2, 27)}, tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match="27 numbers in a block, which is no triangle"):
        load_adapter(tmp_path / "a.safetensors")
