"""What a training does with a GPU's memory, with a CPU that passes for one."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trainers
from studio import Base
from studio.bases.load import load_base
from tests.trainers.learning import TRIGGER, assert_lent, learned
from trainers import LoRA, Step
from trainers.engine.distributed import autocast_of

ONE: dict[str, Any] = {"steps": 2, "batch": 1}


@pytest.fixture
def like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("trainers.engine.loop", "studio.bases.base"):
        monkeypatch.setattr(f"{module}.has_own_memory", lambda device: True)


@pytest.mark.usefixtures("like_a_gpu")
@pytest.mark.parametrize("text_encoders", [False, True])
def test_idle_parts_are_put_aside_for_the_steps(
    text_encoders: bool, sd1: Base, folder: Path, tmp_path: Path
) -> None:
    aside: list[tuple[nn.Module, ...]] = []
    steps = trainers.train(
        LoRA(rank=2),
        sd1,
        folder,
        trigger=TRIGGER,
        run=tmp_path / "run",
        text_encoders=text_encoders,
        **ONE,
    )
    with assert_lent(sd1):
        aside += [sd1.set_aside for event in steps if isinstance(event, Step)]
    idle = (sd1.vae, *(() if text_encoders else sd1.text_encoders))
    assert aside == [idle, idle]
    assert sd1.set_aside == ()


@pytest.mark.usefixtures("like_a_gpu")
def test_where_memory_runs_out_activations_are_recomputed(
    sd1: Base,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, expected = learned(LoRA(rank=2), sd1, folder, tmp_path / "whole", **ONE)
    really, calls = sd1.predict, [0]

    def predict(*args: object, **named: object) -> Tensor:
        calls[0] += 1
        if not sd1.unet.is_gradient_checkpointing:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return really(*args, **named)  # pyright: ignore

    monkeypatch.setattr(sd1, "predict", predict)
    with assert_lent(sd1), caplog.at_level(logging.WARNING):
        _, losses = learned(LoRA(rank=2), sd1, folder, tmp_path / "short", **ONE)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert calls == [3]  # the first step twice
    assert not sd1.unet.is_gradient_checkpointing
    assert "checkpointing" in caplog.text


def test_on_a_cpu_it_ends_the_training(
    sd1: Base, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(*_: object, **__: object) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(sd1, "predict", predict)
    with pytest.raises(MemoryError):
        learned(LoRA(rank=2), sd1, folder, tmp_path / "run", **ONE)


def test_a_base_in_bf16_needs_no_autocast(sd1_folder: Path, folder: Path, tmp_path: Path) -> None:
    assert autocast_of(torch.bfloat16, "bf16") == "no"
    assert autocast_of(torch.float32, "bf16") == "bf16"
    assert autocast_of(torch.float16, "fp16") == "fp16"
    assert autocast_of(torch.float32, "fp32") == "no"
    base = load_base(sd1_folder, device="cpu", dtype="bf16")
    half, losses = learned(LoRA(rank=2), base, folder, tmp_path / "half", **ONE)
    whole = load_base(sd1_folder, device="cpu")
    _, expected = learned(LoRA(rank=2), whole, folder, tmp_path / "whole", **ONE)
    assert losses == pytest.approx(expected, rel=0.03)
    assert all(p.dtype == torch.float32 for d in half.deltas.values() for p in d.parameters())
