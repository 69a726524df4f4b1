"""A stopped build of a sketch model resumes exactly where it stopped; Muon, EMA, learning rate."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from studio.bases.load import load_base
from studio.sketch import autoencoder, denoiser, judge
from studio.sketch.tokenizer import MAX_TOKENS
from studio.sketch.training import (
    EMA,
    Budget,
    Checkpoints,
    Muon,
    Optimizers,
    Report,
    learning_rate,
)


def losses(train: Callable[[Checkpoints], Iterator[Report]], path: Path, count: int) -> list[float]:
    """The first `count` losses of a training of three steps that saves after each."""
    torch.manual_seed(0)
    progress = train(Checkpoints(path, Budget(steps=3), every=0.0))
    return [report.value for report in islice(progress, count)]


def assert_goes_on(train: Callable[[Checkpoints], Iterator[Report]], folder: Path) -> None:
    whole = losses(train, folder / "whole.pt", 3)
    # The state of a step is written when the next one is asked for.
    first = losses(train, folder / "parts.pt", 2)[:1]
    # The third loss is of weights that the optimizers moved with what they remembered.
    assert [*first, *losses(train, folder / "parts.pt", 3)] == whole


def test_a_stopped_denoiser_goes_on(
    tmp_path: Path, sdxl_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denoiser, "LATENT", 8)
    base = load_base(sdxl_folder, device="cpu")
    tokens = torch.randint(500, (20, 2, MAX_TOKENS), dtype=torch.int16)
    data = denoiser.TrainingData(torch.randn(20, 4, 8, 8).half(), tokens, tokens[0, 0])

    def train(state: Checkpoints) -> Iterator[Report]:
        tiny = deepcopy(denoiser.Denoiser(base.unet, list(base.text_encoders)))
        return denoiser.train(tiny.requires_grad_(True), data, state, batch=2)

    assert_goes_on(train, tmp_path)


def test_a_stopped_autoencoder_goes_on(
    tmp_path: Path, sdxl_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = load_base(sdxl_folder, device="cpu").vae.requires_grad_(True)
    monkeypatch.setattr(autoencoder, "autoencoder", lambda: deepcopy(vae))
    pixels = np.random.default_rng(0).integers(0, 256, (1010, 128, 128, 3), np.uint8)
    assert_goes_on(lambda state: autoencoder.train(pixels, state), tmp_path)


def test_a_stopped_judge_goes_on(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 128, 128, 3), np.uint8)
    answers = {name: torch.arange(40) % len(all_) for name, all_ in judge.FACTORS.items()}
    data = judge.TrainingData(pixels, answers)
    assert_goes_on(lambda state: judge.train(data, state, batch=8), tmp_path)


def test_muons_matrices_move_by_orthogonal_steps() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 48, bias=False)
    before = layer.weight.detach().clone()
    layer(torch.randn(64, 24)).square().mean().backward()
    Muon([layer.weight], rate=0.1).step()
    moved = torch.linalg.svdvals(layer.weight.detach() - before * (1 - 0.01 * 0.1))
    moved = moved / (0.1 * 0.2 * 48**0.5)  # the size that Adam's steps have
    assert moved.min() > 0.6 and moved.max() < 1.3


def test_what_is_no_matrix_takes_adamws_step() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.nn.LayerNorm(8), torch.nn.LayerNorm(8)
    optimizers = Optimizers(torch.nn.ModuleList([ours, torch.nn.Linear(2, 2)]), plain=())
    optimizers.set_rate(0.01)
    adam = torch.optim.AdamW(theirs.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=1e-3)
    for step in range(3):
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(step))
        for module in (ours, theirs):
            (module(x) ** 3).mean().mul(0.01).backward()
        optimizers.step()
        adam.step()
        adam.zero_grad()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


def test_the_average_follows_the_weights() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    average = EMA(module, horizon=10)
    torch.nn.init.ones_(module.weight)
    for step in range(1000, 1010):
        average.update(step)
    assert average.state_dict()["weight"].item() == pytest.approx(1 - 0.9**10, rel=1e-5)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(share / 100, peak=1.0) for share in range(101)]
    assert rates[0] == 0.01 and max(rates) == 1.0 and rates.index(1.0) == 3
    assert rates[3:] == sorted(rates[3:], reverse=True) and rates[-1] == pytest.approx(0.02)


def test_a_budget_is_spent_in_steps_or_in_seconds() -> None:
    assert Budget(steps=8).share(2, 100.0) == 0.25
    assert Budget(seconds=200.0).share(2, 100.0) == 0.5
    assert Budget(seconds=50.0).share(2, 100.0) == 1.0
