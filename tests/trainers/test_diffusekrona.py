"""DiffuseKronA against torch.kron and peft's LoKr, counted on the real models, and in the loop."""

from pathlib import Path

import peft
import pytest
import torch
from diffusers import UNet2DConditionModel
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from studio.adapters.delta import Kron, attach, swap_weights
from studio.adapters.formats.convert import to_lycoris
from studio.adapters.load import load_adapter
from studio.adapters.tensor_file import write_tensors
from studio.bases.base import Base
from studio.bases.real_config import real_config
from studio.errors import BadInput
from tests.trainers.learning import assert_lent, learned
from trainers import DiffuseKronA
from trainers.engine.kind import new_deltas

QUERY = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


def started(kind: DiffuseKronA, base: Base) -> dict[str, Kron]:
    return new_deltas(kind, base, generator=torch.Generator().manual_seed(0))  # pyright: ignore


def shaken(kind: DiffuseKronA, base: Base) -> dict[str, Kron]:
    """As if trained: a start's B is zero, and would hide what A does."""
    deltas = started(kind, base)
    draw = torch.Generator().manual_seed(1)
    for delta in deltas.values():
        delta.b_parts[0].data.normal_(generator=draw)
    return deltas


def predicted(base: Base) -> Tensor:
    draw = torch.Generator().manual_seed(2)
    text = base.encode_text(["a sks robot"])
    return base.predict(torch.randn(1, 4, 8, 8, generator=draw), 500, text)


@pytest.mark.parametrize(
    ("name", "a1", "a2", "parameters"),
    [
        ("sd15", 64, 4, 398_048),
        ("sd15", 64, 8, 248_176),
        ("sd15", 16, 4, 1_469_312),
        ("sd21", 64, 4, 423_008),
        ("sd21", 64, 8, 260_656),
        ("sd21", 16, 4, 1_569_152),
        ("sdxl", 64, 8, 2_152_320),
        ("sdxl", 16, 4, 14_960_640),
    ],
)
def test_counts_on_the_real_models(name: str, a1: int, a2: int, parameters: int) -> None:
    deltas = started(DiffuseKronA(a1=a1, a2=a2), real_config(name))
    assert len(deltas) == (560 if name == "sdxl" else 128)
    assert sum(p.numel() for d in deltas.values() for p in d.parameters()) == parameters


def test_the_default_is_the_published_count() -> None:
    """3.8 million on SDXL is the paper's; the others follow from the models' widths."""
    deltas = started(DiffuseKronA(), real_config("sdxl"))
    assert sum(p.numel() for d in deltas.values() for p in d.parameters()) == 3_874_560


def test_each_projection_has_its_own_factors(sdxl: Base) -> None:
    kind = DiffuseKronA(
        a1=8, a2=4, q_a1=16, q_a2=8, k_a1=32, k_a2=2, v_a1=4, v_a2=16, out_a1=2, out_a2=32
    )
    deltas, stem = started(kind, sdxl), QUERY.removesuffix("to_q")
    factors = {"to_q": (16, 8), "to_k": (32, 2), "to_v": (4, 16), "to_out.0": (2, 32)}
    for projection, (a1, a2) in factors.items():
        delta = deltas[stem + projection]
        assert delta.a.shape == (a1, a2)
        assert delta.b.shape == (64 // a1, 64 // a2)
    rest = started(DiffuseKronA(a1=8, a2=4, v_a1=4), sdxl)
    assert rest[f"{stem}to_v"].a.shape == (4, 4)
    assert rest[f"{stem}to_out.0"].a.shape == (8, 4)


def test_a_default_factor_gives_way_and_a_wish_is_refused() -> None:
    layer = torch.nn.Linear(90, 96)
    start = DiffuseKronA().delta(QUERY, layer, generator=torch.Generator())
    assert start is not None
    assert (start.a.shape, start.b.shape) == ((48, 3), (2, 30))
    with pytest.raises(BadInput, match="a1 must divide the outputs"):
        DiffuseKronA(a1=64, a2=3).delta(QUERY, layer, generator=torch.Generator())
    with pytest.raises(BadInput, match="v_a2 must be a whole number of at least 1"):
        DiffuseKronA(v_a2=0)


def test_only_projections_of_attention_change(sdxl: Base) -> None:
    names = set(started(DiffuseKronA(), sdxl))
    assert QUERY in names
    assert all(name.endswith(tuple(ATTENTION)) and ".attn" in name for name in names)


def test_the_unet_computes_with_the_explicit_kronecker_product(sdxl: Base) -> None:
    """torch.kron added to every weight, against the deltas attached, which never form it."""
    deltas, layers = shaken(DiffuseKronA(a1=8, a2=4), sdxl), sdxl.layers()
    with torch.no_grad():
        merged = {
            name: layers[name].weight + torch.kron(delta.a, delta.b)
            for name, delta in deltas.items()
        }
        with swap_weights(layers, merged):
            expected = predicted(sdxl)
        with attach(layers, deltas):
            ours = predicted(sdxl)
        plain = predicted(sdxl)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(ours, plain, atol=1e-2)


def test_it_equals_pefts_lokr_where_that_has_the_shape(sdxl: Base, sdxl_folder: Path) -> None:
    """One factor for both sides is what peft has: outputs and gradients of the whole UNet."""
    deltas = shaken(DiffuseKronA(a1=4, a2=4), sdxl)
    unet = UNet2DConditionModel.from_pretrained(sdxl_folder, subfolder="unet")
    config = peft.LoKrConfig(r=512, alpha=512, decompose_factor=4, target_modules=ATTENTION)
    theirs = peft.get_peft_model(unet, config)
    for name, delta in deltas.items():
        layer = theirs.base_model.model.get_submodule(name.removeprefix("unet."))
        assert layer.lokr_w1["default"].shape == delta.a.shape
        layer.lokr_w1["default"].data.copy_(delta.a)
        layer.lokr_w2["default"].data.copy_(delta.b)
    with attach(sdxl.layers(), deltas):
        ours = predicted(sdxl)
        ours.square().sum().backward()
    plain, sdxl.unet = sdxl.unet, theirs  # pyright: ignore
    try:
        expected = predicted(sdxl)
    finally:
        sdxl.unet = plain
    expected.square().sum().backward()
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    assert len(get_peft_model_state_dict(theirs)) == 2 * len(deltas)
    for name, delta in deltas.items():
        layer = theirs.base_model.model.get_submodule(name.removeprefix("unet."))
        for own, other in ((delta.a, layer.lokr_w1), (delta.b, layer.lokr_w2)):
            wanted = other["default"].grad
            torch.testing.assert_close(own.grad, wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max())


def test_it_is_trained_by_the_loop(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    kind = DiffuseKronA(a1=8, a2=4)
    with assert_lent(sdxl):
        adapter, _ = learned(kind, sdxl, folder, tmp_path / "run")
    assert adapter.kind == "diffusekrona"
    start = started(kind, sdxl)
    for name, delta in adapter.deltas.items():
        assert isinstance(delta, Kron)
        assert delta.b.any()
        assert not torch.equal(delta.a, start[name].a)


@pytest.mark.parametrize("config", ["sdxl", "sd1"])
def test_its_file_survives_lycoris(
    request: pytest.FixtureRequest, folder: Path, tmp_path: Path, config: str
) -> None:
    base: Base = request.getfixturevalue(config)
    adapter, _ = learned(DiffuseKronA(a1=8, a2=4), base, folder, tmp_path / "run", steps=2)
    tensors, metadata = to_lycoris(load_adapter(tmp_path / "run" / "adapter.safetensors"))
    assert {name.rpartition(".")[2] for name in tensors} == {"lokr_w1", "lokr_w2", "alpha"}
    assert all(name.startswith("lora_unet_") for name in tensors)
    write_tensors(tmp_path / "lycoris.safetensors", tensors, metadata)
    again = load_adapter(tmp_path / "lycoris.safetensors", base=base)
    assert again.deltas.keys() == adapter.deltas.keys()
    for name, delta in adapter.deltas.items():
        assert isinstance(delta, Kron)
        weight = base.layers()[name].weight
        assert torch.equal(again.deltas[name].dense(weight), torch.kron(delta.a, delta.b))
