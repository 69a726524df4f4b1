"""Where a LoRA's factors start: as peft's, by the papers' formulas, and read by diffusers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

import trainers
from studio.adapters.delta import LowRank
from studio.bases.base import Base
from studio.errors import BadInput
from studio.requests.validation import build
from tests.trainers.learning import TRIGGER, assert_lent, assert_resumes, learned
from trainers import LoRA, Step
from trainers.engine.starts import STARTS, StartedLowRank, fit_to_inputs, start_low_rank

NAME = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def new(start: Any, layer: nn.Module, rank: int = 4, alpha: float = 2.0, **more: Any) -> LowRank:
    options = LoRA(start=start, rank=rank, alpha=alpha, **more)
    return start_low_rank(options, NAME, layer, generator=torch.Generator().manual_seed(0))


def layers() -> dict[str, Any]:
    torch.manual_seed(5)
    return {
        "wide": nn.Linear(24, 12),
        "tall": nn.Linear(12, 24),
        "narrow": nn.Linear(3, 9),  # of a rank below that asked for
        "conv": nn.Conv2d(6, 10, 3, padding=1),
    }


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("dora", [False, True])
def test_the_first_step_sees_the_base(start: str, dora: bool) -> None:
    """Bit for bit, but for those that take away what they start with."""
    for layer in layers().values():
        x = (
            torch.randn(2, 6, 8, 8)
            if isinstance(layer, nn.Conv2d)
            else torch.randn(2, 5, layer.in_features)
        )
        own = layer(x)
        found = new(start, layer, dora=dora)(layer, x)
        if start in ("pissa", "olora") or dora:
            assert torch.allclose(found, own, atol=1e-5)
        else:
            assert torch.equal(found, own)


@pytest.mark.parametrize("start", ["pissa", "olora", "mica"])
def test_factors_are_pefts(start: str) -> None:
    """Up to the signs of singular vectors, which are free; peft takes the product off the base."""
    layer = layers()["wide"]
    config = LoraConfig(r=4, lora_alpha=2, init_lora_weights=start, target_modules=["0"])  # pyright: ignore
    model: Any = get_peft_model(nn.Sequential(layer), config)  # pyright: ignore
    theirs = model.base_model.model[0]
    ours = new(start, layers()["wide"])
    down, up = theirs.lora_A.default.weight, theirs.lora_B.default.weight
    assert torch.allclose(ours.up @ ours.down, up @ down, atol=1e-5)
    assert torch.allclose(ours.up.abs(), up.abs(), atol=1e-5)
    assert torch.allclose(ours.down.abs(), down.abs(), atol=1e-5)


def test_pissa_learns_as_pefts_residual_base() -> None:
    """After a change of the factors, the whole weight is W - s B0 A0 + s B A."""
    layer = layers()["wide"].double()
    delta: Any = new("pissa", layer, alpha=8).double()
    first = delta.up.detach() @ delta.down.detach()
    with torch.no_grad():
        delta.up.add_(0.1 * torch.randn_like(delta.up))
        delta.down.add_(0.1 * torch.randn_like(delta.down))
    change = 2 * (delta.up @ delta.down - first)
    x = torch.randn(7, 24, dtype=torch.float64)
    assert torch.allclose(delta(layer, x), layer(x) + x @ change.T, atol=1e-12)
    assert torch.allclose(delta.dense(layer.weight), change.float(), atol=1e-6)
    folded = delta.folded()
    assert (folded.rank, folded.scale) == (8, pytest.approx(2))
    assert torch.allclose(folded.dense(layer.weight), change.float(), atol=1e-6)


def test_diagonals_scale_the_leading_factors() -> None:
    """SVFit moves singular values and LoLDU pivots: W + dW has those of W, changed by C."""
    layer = layers()["tall"]
    weight = layer.weight.detach().double()
    delta: Any = new("svfit", layer, alpha=4)
    delta.middle.data.copy_(torch.tensor([0.5, 0.3, 0.2, 0.1]))
    sizes = torch.linalg.svdvals(weight)
    sizes[:4] += torch.tensor([0.5, 0.3, 0.2, 0.1])
    found = torch.linalg.svdvals(weight + delta.dense(layer.weight))
    assert torch.allclose(found, sizes, atol=1e-5)

    delta = new("loldu", layer, alpha=4)
    delta.middle.data.copy_(torch.tensor([0.5, 0.3, 0.2, 0.1]))
    permutation, lower, upper = torch.linalg.lu(weight)
    pivots = upper.diagonal().clone()
    unit = upper / pivots[:, None]
    pivots[:4] += torch.tensor([0.5, 0.3, 0.2, 0.1])
    expected = permutation @ lower @ pivots.diag() @ unit
    assert torch.allclose(weight + delta.dense(layer.weight), expected, atol=1e-5)


def test_miss_repeats_one_block_along_the_inputs() -> None:
    layer = layers()["wide"]
    delta: Any = new("miss", layer, rank=5, alpha=5)
    delta.up.data.normal_()
    expected = delta.up.repeat(1, 5)[:, :24]
    assert torch.allclose(delta.dense(layer.weight), expected)


def test_mosl_mixes_ranks() -> None:
    layer = layers()["conv"]
    delta: Any = new("mosl", layer, alpha=8)
    delta.up.data.normal_()
    expected = 2 * delta.up.flatten(1) @ delta.middle @ delta.down.flatten(1)
    assert torch.allclose(delta.dense(layer.weight).flatten(1), expected, atol=1e-6)


def test_eva_finds_the_main_axes_of_the_inputs() -> None:
    """Those of an SVD of all inputs, over several passes."""
    layer = nn.Linear(20, 8)
    delta = new("eva", layer)
    mixing = torch.randn(20, 20) * torch.tensor([0.1] * 16 + [8.0, 4.0, 2.0, 1.0])[:, None]
    inputs = [torch.randn(30, 20) @ mixing for _ in range(6)]

    def passes():
        for one in inputs:
            layer(one.view(2, 15, 20))
            yield

    fit_to_inputs({NAME: layer}, {NAME: delta}, passes())
    right = torch.linalg.svd(torch.cat(inputs))[2][:4]
    assert torch.allclose((delta.down @ right.T).abs().diagonal(), torch.ones(4), atol=0.02)
    assert torch.allclose(delta.down @ delta.down.T, torch.eye(4), atol=1e-5)
    assert not layer._forward_pre_hooks


# One of each way in which a file is made: as it is, with C in A, with what is subtracted.
@pytest.fixture(scope="module", params=["eva", "mosl", "pissa", "svfit"])
def trained(
    request: pytest.FixtureRequest, sd1: Base, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Any, Path]:
    """A training of two steps: its start, its adapter as it is in memory, and the file."""
    from tests.trainers.conftest import make_pictures

    place = tmp_path_factory.mktemp(request.param)
    folder = make_pictures(place / "pictures", sides=[(64, 64)] * 2)
    kind = LoRA(rank=4, alpha=2, start=request.param)
    with assert_lent(sd1):
        adapter, _ = learned(kind, sd1, folder, place / "run", steps=2)
    return request.param, adapter, place / "run" / "adapter.safetensors"


def test_diffusers_reads_the_same_weights(trained: tuple[str, Any, Path], sd1: Base) -> None:
    start, adapter, file = trained
    pipe: Any = StableDiffusionPipeline.from_pretrained(sd1.source, safety_checker=None)
    pipe.load_lora_weights(str(file))
    pipe.fuse_lora()
    theirs = pipe.unet.state_dict()
    moved = 0.0
    for name, delta in adapter.deltas.items():
        assert type(delta) is LowRank
        assert delta.rank == (8 if start == "pissa" else 4)
        own: Tensor = sd1.layers()[name].weight  # pyright: ignore
        key = name.removeprefix("unet.") + ".base_layer.weight"
        change = delta.dense(own)
        moved = max(moved, float(change.detach().abs().max()))
        assert torch.allclose(own + change, theirs[key], atol=1e-5), name
    assert moved > 1e-6


@pytest.mark.parametrize("start", ["mica", "svfit", "miss"])
def test_frozen_factors_are_in_no_optimizer_and_stay(start: str, sd1: Base) -> None:
    layer: Any = sd1.layers()[NAME]
    delta = new(start, layer)
    assert isinstance(delta, StartedLowRank)
    names = {name for name, _ in delta.named_parameters()}
    assert names == {"mica": {"down"}, "svfit": {"middle"}, "miss": {"up"}}[start]
    assert {"down", "up"} - names <= {name for name, _ in delta.named_buffers()}


@pytest.mark.parametrize("start", ["eva", "pissa", "mosl"])
def test_resuming(start: str, sd1: Base, folder: Path, tmp_path: Path) -> None:
    kind = build(LoRA, {"rank": 2, "start": start})
    assert_resumes(kind, sd1, folder, tmp_path, steps=4, after=2, ema=0.9)


def test_rank_stabilised_files_keep_the_scale() -> None:
    delta: Any = new("olora", layers()["wide"], rank_stabilised=True)
    delta.up.data.normal_()
    assert delta.folded().rank_stabilised
    assert torch.allclose(
        delta.folded().dense(torch.zeros(12, 24)), delta.dense(torch.zeros(12, 24)), atol=1e-5
    )


def test_what_does_not_go_together(sd1: Base, folder: Path, tmp_path: Path) -> None:
    _, _ = learned(LoRA(rank=2), sd1, folder, tmp_path / "first", steps=1)
    given: dict[str, Any] = {"trigger": TRIGGER, "run": tmp_path / "run", "steps": 1}
    first = tmp_path / "first" / "adapter.safetensors"
    with pytest.raises(BadInput, match="leave start out"):
        trainers.train(LoRA(rank=2, start="mosl"), sd1, folder, init=first, **given)
    with pytest.raises(BadInput, match="this start has none"):
        trainers.train(LoRA(rank=2, start="pissa"), sd1, folder, lora_plus=16, **given)
    events = trainers.train(LoRA(rank=2, start="mica"), sd1, folder, lora_plus=16, **given)
    assert any(isinstance(event, Step) for event in events)
