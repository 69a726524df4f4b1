"""What noise a picture is given, against the usual loop of the example scripts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from studio import Base, load_base
from tests.tiny import tiny_sd2
from tests.trainers.learning import NEAR, learned
from tests.trainers.reference import peft_training, trained
from trainers import LoRA
from trainers.engine.data.randomness import draw_for_picture, generator_for
from trainers.engine.kind import new_deltas


@pytest.fixture(scope="module")
def zero(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A tiny SD 2.1 that predicts velocity and keeps no signal in its last timestep."""
    folder = tmp_path_factory.mktemp("zero") / "base"
    return load_base(tiny_sd2(folder, zero_terminal_snr=True), device="cpu")


def test_training_equals_peft_with_noise(
    sdxl64: Base, sdxl_folder: Path, folder: Path, tmp_path: Path
) -> None:
    kind = LoRA(rank=4)
    noise: dict[str, Any] = {"noise_offset": 0.1, "input_perturbation": 0.2}
    given = {"steps": 6, "seed": 3, "schedule": "constant", **noise}
    _, losses = learned(kind, sdxl64, folder, tmp_path / "run", **given)
    start = new_deltas(kind, sdxl64, generator=generator_for(3, "start"))
    expected, weights = peft_training(sdxl_folder, folder, kind, start, steps=6, **noise)
    assert losses == pytest.approx(expected, abs=1e-5)
    ours = load_file(tmp_path / "run" / "adapter.safetensors")
    for name, tensor in weights.items():
        torch.testing.assert_close(ours[f"unet.{name}"], tensor, **NEAR)


def test_velocity_down_to_no_signal_costs_what_diffusers_says(
    zero: Base, folder: Path, tmp_path: Path
) -> None:
    """Losses alone, at a rate that moves nothing: Adam makes this base's last bits large."""
    kind = LoRA(rank=4)
    given = {"steps": 10, "seed": 3, "lr": 1e-12, "input_perturbation": 0.1}
    _, losses = learned(kind, zero, folder, tmp_path / "run", **given)
    start = new_deltas(kind, zero, generator=generator_for(3, "start"))
    expected, _ = peft_training(
        Path(zero.source),
        folder,
        kind,
        start,
        steps=10,
        optimizer=lambda unet: torch.optim.AdamW(trained(unet), lr=1e-12),
        input_perturbation=0.1,
    )
    assert losses == pytest.approx(expected, abs=1e-6)


def test_what_is_off_draws_nothing() -> None:
    def draw(generator: torch.Generator, **options: float):
        return draw_for_picture(
            generator,
            shape=(4, 8, 8),
            variants=1,
            caption_dropout=0,
            timesteps=1000,
            **options,
        )

    plain, generator = draw(generator_for(0)), generator_for(0)
    offset = draw(generator, noise_offset=0.5)
    assert torch.equal(plain.posterior, offset.posterior)
    assert plain.input_noise is plain.noise
    difference = offset.noise - plain.noise
    torch.testing.assert_close(difference, difference[:, :1, :1].expand(4, 8, 8))
    assert difference[:, 0, 0].std() > 0.05
    perturbed = draw(generator_for(0), input_perturbation=0.1)
    assert torch.equal(perturbed.noise, plain.noise)
    assert 0.05 < (perturbed.input_noise - perturbed.noise).std() < 0.15
