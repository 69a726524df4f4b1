"""The noise, the loss and the order of pictures, against diffusers and the papers' formulas."""

# diffusers' and PyTorch's types say less than they take.
# pyright: reportArgumentType=false

from collections import Counter
from hashlib import sha256
from itertools import islice

import pytest
import torch
from diffusers import DDPMScheduler

from trainers.engine.data.batches import batches
from trainers.engine.data.randomness import draw_for_picture, generator_for
from trainers.engine.objective import Objective

CPU = torch.device("cpu")


def ddpm(*, zero_terminal_snr: bool = False) -> DDPMScheduler:
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=zero_terminal_snr,
    )


def objective(scheduler: DDPMScheduler, prediction: str, min_snr: float) -> Objective:
    return Objective(
        scheduler.alphas_cumprod, prediction_type=prediction, min_snr=min_snr, device=CPU
    )


def test_noise_is_added_as_diffusers_adds_it() -> None:
    scheduler = ddpm()
    latents, noise = torch.randn(2, 3, 4, 8, 8).unbind()
    at = torch.tensor([0, 500, 999])
    ours = objective(scheduler, "epsilon", 0).noised(latents, noise, at)
    torch.testing.assert_close(ours, scheduler.add_noise(latents, noise, at))


def test_the_velocity_that_diffusers_computes_costs_nothing() -> None:
    scheduler = ddpm()
    latents, noise = torch.randn(2, 3, 4, 8, 8).unbind()
    at = torch.tensor([0, 500, 999])
    velocity = scheduler.get_velocity(latents, noise, at)
    loss = objective(scheduler, "v_prediction", 0).loss(velocity, latents, noise, at)
    assert loss < 1e-12


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weights_are_those_of_the_paper(prediction: str) -> None:
    """min(snr, gamma) / snr on noise; divided by snr + 1 instead on velocity."""
    scheduler = ddpm()
    for t in (0, 10, 250, 600, 999):
        snr = float(scheduler.alphas_cumprod[t] / (1 - scheduler.alphas_cumprod[t]))
        weight = min(snr, 5.0) / (snr if prediction == "epsilon" else snr + 1)
        zero, at = torch.zeros(1, 4, 8, 8), torch.tensor([t])
        off = objective(scheduler, prediction, 0).loss(zero + 1, zero, zero, at)
        on = objective(scheduler, prediction, 5).loss(zero + 1, zero, zero, at)
        assert float(on / off) == pytest.approx(weight, rel=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_of_the_picture_is_the_error_of_what_diffusers_predicts(prediction: str) -> None:
    scheduler = ddpm()
    latents, noise, predicted = torch.randn(3, 1, 4, 8, 8).unbind()
    for t in (10, 250, 600):
        at = torch.tensor([t])
        noised = scheduler.add_noise(latents, noise, at)
        signal, sigma = scheduler.alphas_cumprod[t].sqrt(), (1 - scheduler.alphas_cumprod[t]).sqrt()
        if prediction == "epsilon":
            clean = (noised - sigma * predicted) / signal
        else:
            clean = signal * noised - sigma * predicted
        ours = objective(scheduler, prediction, 5).loss(predicted, latents, noise, at, clean=True)
        assert float(ours) == pytest.approx(float((latents - clean).square().mean()), rel=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_last_step_without_signal_has_a_finite_weight(prediction: str) -> None:
    weight = objective(ddpm(zero_terminal_snr=True), prediction, 5).weight
    assert torch.isfinite(weight).all()
    assert float(weight[-1]) == (1.0 if prediction == "epsilon" else 0.0)


def test_what_a_step_draws_is_what_the_file_says() -> None:
    seed = int.from_bytes(sha256(b"7/step/3").digest()[:8], "little") // 2
    expected = torch.Generator().manual_seed(seed)
    ours = draw_for_picture(
        generator_for(7, "step", 3),
        shape=(4, 2, 2),
        variants=6,
        caption_dropout=0.5,
        timesteps=1000,
    )
    assert ours.variant == torch.randint(6, (), generator=expected)
    assert ours.dropped == (torch.rand((), generator=expected) < 0.5)
    assert ours.timestep == torch.randint(1000, (), generator=expected)
    assert torch.equal(ours.posterior, torch.randn(4, 2, 2, generator=expected))
    assert torch.equal(ours.noise, torch.randn(4, 2, 2, generator=expected))


def test_batches_are_full_of_one_bucket_and_fair() -> None:
    buckets = ["wide", "wide", "wide", "tall", "square"]
    drawn = list(islice(batches(buckets, batch=2, seed=0), 100))
    assert all(len({buckets[n] for n in batch}) == 1 and len(batch) == 2 for batch in drawn)
    counts = Counter(n for batch in drawn for n in batch)
    assert max(counts.values()) - min(counts.values()) <= 2
    assert drawn == list(islice(batches(buckets, batch=2, seed=0), 100))
    assert drawn != list(islice(batches(buckets, batch=2, seed=1), 100))


def test_five_pictures_fill_batches_of_eight() -> None:
    drawn = list(islice(batches(["square"] * 5, batch=8, seed=0), 5))
    assert Counter(n for batch in drawn for n in batch) == dict.fromkeys(range(5), 8)
