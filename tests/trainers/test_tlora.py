"""T-LoRA: which ranks act at which timestep, in a training and in pictures, and what files say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

import compose
import studio
import trainers
from studio.adapters.adapter import Adapter
from studio.adapters.delta import LowRank, attach
from studio.adapters.delta.timed import TimedLowRank, tell_timesteps
from studio.adapters.load import load_adapter
from studio.adapters.rank_schedule import RankSchedule
from studio.bases.base import Base
from studio.errors import BadInput
from tests.compose.conftest import ByHand
from tests.trainers.learning import TRIGGER, assert_lent, assert_resumes, learned
from trainers import LoRA, TLoRA
from trainers.engine.kind import new_deltas


def test_the_paper_s_ranks() -> None:
    """Rank 64 falling to 32 along a line, and sooner with a power of 2."""
    line, square = RankSchedule(32, 64), RankSchedule(32, 64, 2.0)
    assert [line.rank(t) for t in (1000, 999, 750, 500, 250, 31.25, 0)] == [
        32,
        32,
        40,
        48,
        56,
        63,
        64,
    ]
    assert [square.rank(t) for t in (1000, 750, 500, 250, 0)] == [32, 34, 40, 50, 64]
    assert RankSchedule.read(line.plain()) == line
    assert RankSchedule.read({"least": 9, "most": 4, "power": 1.0}) is None


def shaken(base: Base, least: int = 1) -> Adapter:
    """As if trained."""
    kind = TLoRA(rank=6, least_rank=least).for_base(base)
    deltas = new_deltas(kind, base, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    for delta in deltas.values():
        assert isinstance(delta, TimedLowRank)
        delta.up.data.normal_(std=0.3, generator=draw)
    return Adapter(
        deltas=deltas, kind="tlora", family=base.family, rank_schedule=RankSchedule(least, 6)
    )


@pytest.mark.parametrize(
    "layer", [nn.Linear(8, 5), nn.Conv2d(8, 5, 3, padding=1)], ids=["linear", "convolution"]
)
def test_rows_are_masked_apart_and_what_is_masked_learns_nothing(layer: Any) -> None:
    plain = LowRank.start(layer, 4, alpha=2, generator=torch.Generator())
    plain.up.data.normal_()
    delta = TimedLowRank.of(plain, RankSchedule(1, 4))
    x = torch.randn(2, 8, 6, 6) if layer.weight.ndim > 2 else torch.randn(2, 7, 8)
    unet = nn.Module()
    unet.forward = lambda sample, timestep: delta(layer, sample)  # pyright: ignore
    with tell_timesteps(unet, {"layer": delta}):
        found = unet(x, torch.tensor([1000, 334]))  # ranks 1 and 2
    for row, rank in enumerate((1, 2)):
        assert torch.allclose(found[row], plain.leading(rank)(layer, x)[row], atol=1e-6)
    found[0].sum().backward()
    assert delta.down.grad is not None and delta.up.grad is not None
    assert not delta.down.grad[1:].any() and not delta.up.grad[:, 1:].any()
    assert delta.down.grad[0].any()
    assert delta.active is None and not unet._forward_pre_hooks


def test_with_all_ranks_always_it_is_lora(sd1: Base, folder: Path, tmp_path: Path) -> None:
    same = {"steps": 2, "batch": 1, "checkpointing": True}
    _, plain = learned(LoRA(rank=4), sd1, folder, tmp_path / "lora", **same)
    with assert_lent(sd1):
        _, full = learned(TLoRA(rank=4, least_rank=4), sd1, folder, tmp_path / "full", **same)
        _, fewer = learned(TLoRA(rank=4, least_rank=1), sd1, folder, tmp_path / "fewer", **same)
    assert full == pytest.approx(plain, rel=1e-4)
    assert fewer != pytest.approx(plain, rel=1e-4)


def test_resuming_and_the_file(sd1: Base, folder: Path, tmp_path: Path) -> None:
    assert_resumes(TLoRA(rank=4), sd1, folder, tmp_path, steps=2, after=1)
    file = tmp_path / "cut" / "adapter.safetensors"
    adapter = load_adapter(file)
    assert adapter.rank_schedule == RankSchedule(2, 4)
    assert adapter.save(tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    given: dict[str, Any] = {"trigger": TRIGGER, "run": tmp_path / "no", "init": file}
    with pytest.raises(BadInput, match="train a tlora of rank 4, least_rank 2, power 1"):
        trainers.train(LoRA(rank=4), sd1, folder, **given)
    with pytest.raises(BadInput, match="train a tlora of rank 4"):
        trainers.train(TLoRA(rank=8), sd1, folder, **given)
    assert trainers.train(TLoRA(rank=4), sd1, folder, **given)


def test_diffusers_reads_all_ranks(sd1: Base, tmp_path: Path) -> None:
    file = shaken(sd1).save(tmp_path / "robot.safetensors")
    pipe: Any = StableDiffusionPipeline.from_pretrained(sd1.source, safety_checker=None)
    pipe.load_lora_weights(str(file))
    pipe.fuse_lora()
    theirs = pipe.unet.state_dict()
    for name, delta in load_adapter(file).deltas.items():
        own: Tensor = sd1.layers()[name].weight  # pyright: ignore
        key = name.removeprefix("unet.") + ".base_layer.weight"
        assert torch.allclose(own + delta.dense(own), theirs[key], atol=1e-5)


def at_rank(adapter: Adapter, timestep: float) -> Adapter:
    """The adapter as it acts at a timestep, an ordinary one."""
    schedule = adapter.rank_schedule
    assert schedule
    rank = schedule.rank(timestep)
    cut = {name: d.leading(rank) for name, d in adapter.deltas.items() if isinstance(d, LowRank)}
    return replace(adapter, deltas=dict(cut), rank_schedule=None)


@pytest.mark.parametrize(
    "method",
    [compose.Merge(), compose.Merge(combination="ties"), compose.Switch(1), compose.Composite()],
    ids=["merge", "ties", "switch", "composite"],
)
@pytest.mark.parametrize("scheduler", ["ddim", "euler"])
def test_pictures_have_the_ranks_of_each_step(sd1: Base, method: Any, scheduler: str) -> None:
    if scheduler == "euler" and not isinstance(method, compose.Switch):
        pytest.skip("one sampler with timesteps between whole ones is enough")
    adapter = shaken(sd1)
    shot = studio.Shot(
        "a cat", steps=3, adapters=((adapter, 0.1),), method=method, scheduler=scheduler
    )
    latents = compose.render(sd1, shot, output="latents")
    if isinstance(method, compose.Merge) and method.combination == "ties":
        plain = replace(adapter, rank_schedule=None)
        whole = compose.render(sd1, replace(shot, adapters=((plain, 0.1),)), output="latents")
        assert not torch.allclose(latents, whole, atol=1e-4)
        return
    hand = ByHand(sd1, shot)

    def eps(step: int) -> Tensor:
        return hand.eps([(at_rank(adapter, float(hand.timestep)), 0.1, None)])

    torch.testing.assert_close(latents, hand.run(eps), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["klora", "cmlora"])
def test_other_methods_draw_it_too(sd1: Base, method: str) -> None:
    """With all ranks always, they draw the picture of an ordinary LoRA."""
    full, fewer = shaken(sd1, least=6), shaken(sd1)
    plain = replace(full, rank_schedule=None)
    drawn = [
        compose.render(
            sd1,
            studio.Shot(
                "a cat",
                steps=2,
                adapters=((one, 0.02), (plain, 0.02)),
                method=compose.methods()[method](),
            ),
            output="latents",
        )
        for one in (full, plain, fewer)
    ]
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(drawn[2], drawn[1], rtol=0, atol=1e-2)


def test_samples_of_a_training_know_their_timestep(sd1: Base) -> None:
    """Deltas that are attached draw what the finished adapter draws."""
    adapter = shaken(sd1)
    shot = studio.Shot("a cat", steps=2)
    with attach(sd1.layers(), adapter.deltas), tell_timesteps(sd1.unet, adapter.deltas):
        attached = compose.render(sd1, shot, output="latents")
    mixed = compose.render(sd1, replace(shot, adapters=((adapter, 1.0),)), output="latents")
    scale = mixed.abs().max()
    torch.testing.assert_close(attached / scale, mixed / scale, rtol=1e-3, atol=1e-3)


def test_ranks_that_cannot_be_are_refused(sd1: Base) -> None:
    with pytest.raises(BadInput, match="least_rank is 5, above the rank 4"):
        TLoRA(rank=4, least_rank=5).for_base(sd1)
