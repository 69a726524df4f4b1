"""Pictures of a base that keeps no signal in its last timestep (Lin et al. 2024), from pure noise.

Its configuration says rescale_betas_zero_snr and trailing timesteps; every scheduler starts at the
last timestep and gives what the pipeline of diffusers gives.
"""

from pathlib import Path

import pytest

from compose import render
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.requests.shot import Shot
from tests.compose.conftest import open_pipeline
from tests.compose.test_parity import SCHEDULERS, assert_same, reference
from tests.tiny import tiny_sd2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd2(tmp_path_factory.mktemp("zero") / "base", zero_terminal_snr=True)


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    return load_base(folder, device="cpu")


@pytest.mark.parametrize("scheduler", [None, *SCHEDULERS])
def test_text_to_latents(base: Base, folder: Path, scheduler: str | None) -> None:
    shot = Shot("a robot in ink", seed=3, steps=4, guidance=5.0, scheduler=scheduler)
    assert_same(render(base, shot, output="latents"), reference(open_pipeline(folder), shot))
