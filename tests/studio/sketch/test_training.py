"""A stopped build of a sketch model resumes exactly where it stopped; Muon, EMA, learning rate."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from studio.sketch import autoencoder, denoiser, judge
from studio.sketch.corpus import Corpus, any_scene
from studio.sketch.tokenizer import learn_tokenizer
from studio.sketch.training import EMA, Checkpoints, Muon, Report, learning_rate
from studio.sketch.world import scenes as world


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    scenes = [any_scene(rng) for _ in range(40)]
    # The autoencoder leaves the last thousand alone.
    drawn = [np.asarray(world.draw(scene)) for scene in scenes] * 26
    return Corpus(np.stack(drawn), scenes * 26)


@pytest.fixture(scope="module")
def data() -> denoiser.TrainingData:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 500, size=(20, 2, 32)).astype(np.int16)
    return denoiser.TrainingData(torch.randn(20, 4, 16, 16).half(), tokens, tokens[0, 0])


@pytest.mark.parametrize("name", ["sketch", "sketch-sd1"])
def test_a_stopped_denoiser_goes_on(name: str, data: denoiser.TrainingData, tmp_path: Path) -> None:
    tokenizer = learn_tokenizer(captions=500)
    sketch = denoiser.sdxl_denoiser(tokenizer)
    sketch.text_encoders[1].save_pretrained(tmp_path / "text_encoder_2")

    def make() -> denoiser.Denoiser:
        if name == "sketch":
            return denoiser.sdxl_denoiser(tokenizer)
        return denoiser.sd1_denoiser(denoiser.shrink_text_encoder(tmp_path / "text_encoder_2"))

    def steps(path: Path, count: int) -> list[float]:
        torch.manual_seed(0)
        checkpoints = Checkpoints(path, every=1)
        progress = denoiser.train(make(), data, checkpoints, steps=4, batch=4, rate=1e-3)
        return [report.value for report in islice(progress, count)]

    whole = steps(tmp_path / "whole.pt", 4)
    # The state of a step is written when the next one is asked for.
    first = steps(tmp_path / "parts.pt", 3)[:2]
    assert [*first, *steps(tmp_path / "parts.pt", 4)] == whole


@pytest.mark.parametrize("train", [autoencoder.train, judge.train])
def test_a_stopped_autoencoder_or_judge_goes_on(
    train: Callable[..., Iterator[Report]], corpus: Corpus, tmp_path: Path
) -> None:
    def steps(path: Path, count: int) -> list[float]:
        progress = train(corpus, Checkpoints(path, every=1), steps=4)
        return [report.value for report in islice(progress, count)]

    whole = steps(tmp_path / "whole.pt", 4)
    assert [*steps(tmp_path / "parts.pt", 3)[:2], *steps(tmp_path / "parts.pt", 4)] == whole


def test_muons_matrices_move_by_orthogonal_steps() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 48, bias=False)
    before = layer.weight.detach().clone()
    layer(torch.randn(64, 24)).square().mean().backward()
    Muon(layer, rate=0.1).step()
    moved = torch.linalg.svdvals(layer.weight.detach() - before * (1 - 0.01 * 0.1))
    moved = moved / (0.1 * 0.2 * 48**0.5)  # the size that Adam's steps have
    assert moved.min() > 0.6 and moved.max() < 1.3


def test_muon_takes_adams_step_for_all_else() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.nn.LayerNorm(8), torch.nn.LayerNorm(8)
    muon = Muon(ours, rate=0.01)
    adam = torch.optim.Adam(theirs.parameters(), lr=0.01, betas=(0.9, 0.99), eps=1e-8)
    for step in range(3):
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(step))
        for module, optimiser in ((ours, muon), (theirs, adam)):
            optimiser.zero_grad()
            (module(x) ** 3).sum().backward()
            optimiser.step()
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
    rates = [learning_rate(step, 100, peak=1.0, warmup=10) for step in range(100)]
    assert rates[0] == 0.1 and max(rates) == 1.0 and rates.index(1.0) == 9
    assert rates[9:] == sorted(rates[9:], reverse=True) and 0.02 <= rates[-1] < 0.03
