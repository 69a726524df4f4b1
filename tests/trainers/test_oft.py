"""OFT: the rotation, its counts on the real models, and its files for peft and OneTrainer."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from diffusers import UNet2DConditionModel
from peft.tuners.oft.layer import OFTRotationModule
from safetensors.torch import load_file, safe_open
from torch import nn

import compose
import studio
import trainers
from studio.adapters.adapter import Adapter
from studio.adapters.delta import Cayley, Rotation
from studio.adapters.load import load_adapter
from studio.adapters.rescale import scale_adapter
from studio.bases.base import Base
from studio.bases.real_config import real_config
from studio.errors import BadInput
from tests.compose.conftest import ByHand
from tests.trainers.learning import TRIGGER, assert_lent, assert_resumes, learned
from trainers import OFT
from trainers.engine.kind import new_deltas
from ui.cli.adapters.convert import write_as


@pytest.mark.parametrize(
    ("name", "size", "parameters"),
    [("sd15", 32, 1_541_568), ("sd21", 32, 1_668_544), ("sdxl", 8, 2_750_720)],
)
def test_counts_on_the_real_models(name: str, size: int, parameters: int) -> None:
    assert trainers.count(OFT(block_size=size), real_config(name)).parameters == parameters


@pytest.mark.parametrize("terms", [None, 5])
@pytest.mark.parametrize(
    "layer", [nn.Linear(24, 10), nn.Conv2d(24, 10, 3, padding=1)], ids=["linear", "convolution"]
)
def test_inputs_are_rotated(layer: Any, terms: int | None) -> None:
    """As peft's module turns them; at Q = 0 not one bit differs."""
    torch.manual_seed(0)
    delta = Cayley.start(layer, 8, terms=terms)
    x = torch.randn(2, 24, 6, 6) if layer.weight.ndim > 2 else torch.randn(2, 5, 24)
    assert torch.equal(delta(layer, x), layer(x))
    delta.upper.data.normal_(std=0.1)
    theirs = OFTRotationModule(3, 28, 8, 24, use_cayley_neumann=terms is not None)
    theirs.weight.data = delta.upper.data
    channels_last = x if x.ndim == 3 else x.permute(0, 2, 3, 1)
    turned = theirs(channels_last.flatten(1, -2) if x.ndim == 4 else x)
    turned = turned if x.ndim == 3 else turned.view(channels_last.shape).permute(0, 3, 1, 2)
    assert torch.allclose(delta(layer, x), layer(turned), atol=1e-5)
    whole = nn.Parameter(layer.weight + delta.dense(layer.weight))
    assert torch.allclose(
        torch.func.functional_call(layer, {"weight": whole}, x), layer(turned), atol=1e-5
    )


def test_rows_keep_their_length_and_only_the_exact_map_is_a_rotation() -> None:
    weight, upper = torch.randn(10, 64), 0.05 * torch.randn(2, 496)
    exact = Cayley(upper).matrices().double()
    assert torch.allclose(exact @ exact.transpose(1, 2), torch.eye(32).double(), atol=1e-5)
    whole = weight + Cayley(upper).dense(weight)
    assert torch.allclose(whole.norm(dim=1), weight.norm(dim=1), atol=1e-4)
    series = Cayley(-upper, terms=40).matrices().double()  # it converges below a norm of 1
    assert torch.linalg.matrix_norm(exact - series, 2).max() < 1e-3
    few = Cayley(0.05 * upper, terms=5).matrices().double()
    assert torch.allclose(few @ few.transpose(1, 2), torch.eye(32).double(), atol=1e-5)


def test_gradients_reach_the_triangle() -> None:
    layer, delta = (
        nn.Linear(8, 4).double().requires_grad_(False),
        Cayley(torch.zeros(2, 6).double()),
    )
    x = torch.randn(3, 8, dtype=torch.float64)
    delta(layer, x).square().sum().backward()
    assert delta.upper.grad is not None
    step = torch.zeros(2, 6).double()
    step[1, 2] = 1e-3
    with torch.no_grad():
        up, down = (Cayley(sign * step)(layer, x).square().sum() for sign in (1, -1))
    assert float(delta.upper.grad[1, 2]) == pytest.approx(float(up - down) / 2e-3, rel=1e-2)


@pytest.fixture(scope="module", params=[None, 5], ids=["exact", "series"])
def trained(
    request: pytest.FixtureRequest, sd1: Base, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The file of a short training with such a rate that the rotations can be seen."""
    from tests.trainers.conftest import make_pictures

    place = tmp_path_factory.mktemp("oft")
    folder = make_pictures(place / "pictures", sides=[(64, 64)] * 2)
    kind = OFT(block_size=8, terms=request.param)
    with assert_lent(sd1):
        learned(kind, sd1, folder, place / "run", steps=3, lr=0.02, out=place / "robot.safetensors")
    return place / "robot.safetensors"


def weights(base: Base, adapter: Adapter) -> dict[str, torch.Tensor]:
    own: dict[str, Any] = {name: base.layers()[name].weight for name in adapter.deltas}
    return {name: own[name] + delta.dense(own[name]) for name, delta in adapter.deltas.items()}


def test_the_file_comes_back_with_its_triangles(trained: Path, tmp_path: Path) -> None:
    adapter = load_adapter(trained)
    assert adapter.kind == "oft"
    assert all(isinstance(delta, Cayley) for delta in adapter.deltas.values())
    with safe_open(trained, "pt") as file:
        config = json.loads(file.metadata()["lora_adapter_metadata"])
    exact = not config["unet.use_cayley_neumann"]
    assert all(delta.terms == (None if exact else 5) for delta in adapter.deltas.values())  # pyright: ignore
    assert adapter.save(tmp_path / "again.safetensors").read_bytes() == trained.read_bytes()


def test_peft_reads_the_same_weights(trained: Path, sd1: Base, tmp_path: Path) -> None:
    out = tmp_path / "for-peft"
    write_as(trained, to="peft", family=None, out=out)
    unet: Any = UNet2DConditionModel.from_pretrained(sd1.source, subfolder="unet")
    model = peft.PeftModel.from_pretrained(unet, out / "unet")
    theirs = model.merge_and_unload().state_dict()  # pyright: ignore
    ours = weights(sd1, load_adapter(trained))
    assert (
        max(
            float(p.abs().max()) for p in load_file(out / "unet/adapter_model.safetensors").values()
        )
        > 0.01
    )
    for name, weight in ours.items():
        assert torch.allclose(weight, theirs[f"{name.removeprefix('unet.')}.weight"], atol=1e-5)
    again = weights(sd1, load_adapter(out))
    assert all(torch.equal(again[name], weight) for name, weight in ours.items())


def test_onetrainer_gets_the_series_only(trained: Path, sd1: Base, tmp_path: Path) -> None:
    adapter, out = load_adapter(trained), tmp_path / "one.safetensors"
    if all(isinstance(d, Cayley) and d.terms is None for d in adapter.deltas.values()):
        with pytest.raises(BadInput, match="train it with terms 5, or convert it to peft"):
            write_as(trained, to="onetrainer", family=None, out=out)
        return
    write_as(trained, to="onetrainer", family=None, out=out)
    again = load_adapter(out)
    assert all(
        key.startswith("lora_unet_") and key.endswith(".oft_R.weight") for key in load_file(out)
    )
    ours, theirs = weights(sd1, adapter), weights(sd1, again)
    assert all(torch.equal(theirs[name], weight) for name, weight in ours.items())


@pytest.mark.parametrize("method", ["merge", "switch", "composite", "klora", "cmlora"])
def test_every_method_mixes_it(sd1: Base, method: str) -> None:
    """Merged it is the picture of weights changed by hand."""
    deltas = new_deltas(OFT(block_size=8), sd1, generator=torch.Generator())
    for number, delta in enumerate(deltas.values()):
        draw = torch.Generator().manual_seed(number)
        delta.upper.data.normal_(std=0.003, generator=draw)  # pyright: ignore
    adapter, strength = Adapter(deltas=deltas, kind="oft", family="sd1"), 0.7
    other = scale_adapter(adapter, 0.5)
    chosen = compose.methods()[method]()
    shot = studio.Shot(
        "a cat", steps=2, adapters=((adapter, strength), (other, 1.0)), method=chosen
    )
    latents = compose.render(sd1, shot, output="latents")
    assert torch.isfinite(latents).all()
    plain = compose.render(sd1, studio.Shot("a cat", steps=2), output="latents")
    assert not torch.allclose(latents, plain, rtol=0, atol=1e-3)
    if method == "merge":
        hand = ByHand(sd1, shot)
        expected = hand.run(lambda step: hand.eps([(adapter, strength, None), (other, 1.0, None)]))
        torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)


def test_resuming_and_starting_from_a_file(trained: Path, sd1: Base, tmp_path: Path) -> None:
    folder = trained.parent / "pictures"
    if next(iter(load_adapter(trained).deltas.values())).terms is None:  # pyright: ignore
        assert_resumes(OFT(block_size=8), sd1, folder, tmp_path, steps=2, after=1, ema=0.9)
    first: Any = load_adapter(trained)
    terms = next(iter(first.deltas.values())).terms
    kind, other = (OFT(block_size=8, terms=number) for number in (terms, 7))
    given: dict[str, Any] = {"trigger": TRIGGER, "steps": 1, "init": trained}
    training = trainers.train(kind, sd1, folder, run=tmp_path / "on", lr=1e-9, **given)
    *_, last = training
    assert isinstance(last, trainers.Finished)
    ours, theirs = weights(sd1, last.adapter), weights(sd1, first)
    assert all(torch.allclose(theirs[name], ours[name], atol=1e-6) for name in ours)
    with pytest.raises(BadInput, match="give terms for it"):
        trainers.train(other, sd1, folder, run=tmp_path / "no", **given)
    with pytest.raises(BadInput, match="trains no factors"):
        trainers.train(kind, sd1, folder, run=tmp_path / "no", lora_plus=16, **given)


def test_what_is_refused(sdxl: Base) -> None:
    with pytest.raises(BadInput, match="no blocks of 7"):
        new_deltas(OFT(block_size=7), sdxl, generator=torch.Generator())
    deltas = new_deltas(OFT(targets="all"), sdxl, generator=torch.Generator())
    adapter = Adapter(deltas=deltas, kind="oft", family="sdxl")
    from studio.adapters.formats.convert import to_kohya, to_peft

    with pytest.raises(BadInput, match="train with targets attention"):
        to_peft(adapter)
    with pytest.raises(BadInput, match="low-rank changes only"):
        to_kohya(adapter)
    assert all(isinstance(delta, Rotation) for delta in deltas.values())
