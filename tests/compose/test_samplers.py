"""Every sampler with every spacing: the latents of diffusers' pipeline after each step."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSDEScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from compose import Step, denoise
from studio.assets import asset
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.bases.samplers import SPACINGS_OF
from studio.errors import BadInput
from studio.requests.shot import Shot
from tests.compose.conftest import Pipeline, open_pipeline

# torchsde warns where the last bits of a noise level lie outside of its own; it clamps them then.
pytestmark = pytest.mark.filterwarnings("ignore:Should have t:UserWarning:torchsde")

STEPS = 3  # a random UNet makes the last bits a thousandfold in a few more
LATENT = {"clip_sample": False, "set_alpha_to_one": False}
SAMPLERS: dict[str, tuple[type, dict[str, object]]] = {
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_sde": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_sde": (DPMSolverSDEScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
    "ddim": (DDIMScheduler, LATENT),
    "ddpm": (DDPMScheduler, LATENT),
    "lcm": (LCMScheduler, LATENT),
    "tcd": (TCDScheduler, LATENT),
}
TRAILING = {"timestep_spacing": "trailing", "original_inference_steps": 1000}
SPACED: dict[str | None, dict[str, object]] = {
    None: {},
    "leading": {"timestep_spacing": "leading"},
    "trailing": TRAILING,
    "sgm_uniform": TRAILING,  # as diffusers translates that name
    "karras": {"timestep_spacing": "linspace", "use_karras_sigmas": True},
    "exponential": {"timestep_spacing": "linspace", "use_exponential_sigmas": True},
}
PAIRS = [(name, spacing) for name in SAMPLERS for spacing in (None, *SPACINGS_OF[name])]


@pytest.fixture(scope="module")
def sketch_sd1() -> Base:
    return load_base("sketch-sd1", device="cpu")


@pytest.fixture(scope="module")
def pipelines(sdxl_folder: Path) -> dict[str, Pipeline]:
    return {
        "sketch-sd1": open_pipeline(asset("sketch-sd1")),
        "sdxl": open_pipeline(sdxl_folder),
    }


def their_latents(pipeline: Any, shot: Shot) -> list[Tensor]:
    """After every step of the pipeline, whose scheduler is set to the shot's."""
    kind, own = SAMPLERS[str(shot.scheduler)]
    settings = {**pipeline.scheduler.config, **own, **SPACED[shot.spacing]}
    scheduler = kind.from_config(settings, noise_sampler_seed=shot.seed)
    before, pipeline.scheduler = pipeline.scheduler, scheduler
    latents: list[Tensor] = []

    def note(pipe: Any, step: int, timestep: Tensor, values: dict[str, Tensor]) -> dict:
        latents.append(values["latents"].clone())
        return {}

    side = pipeline.unet.config.sample_size
    draw = torch.Generator().manual_seed(shot.seed)
    noise = torch.randn(1, 4, side, side, generator=draw)
    pipeline(
        prompt=shot.prompt,
        negative_prompt=shot.negative or None,
        num_inference_steps=shot.steps,
        guidance_scale=shot.guidance,
        latents=noise,
        generator=draw,
        eta=0.3 if shot.scheduler == "tcd" else 0.0,  # TCD's gamma, in its authors' examples
        output_type="latent",
        callback_on_step_end=note,
    )
    pipeline.scheduler = before
    return latents


@pytest.mark.parametrize(("scheduler", "spacing"), PAIRS)
@pytest.mark.parametrize("name", ["sketch-sd1", "sdxl"])
def test_latents_of_every_step_are_those_of_diffusers(
    sdxl: Base,
    sketch_sd1: Base,
    pipelines: dict[str, Pipeline],
    name: str,
    scheduler: str,
    spacing: str | None,
) -> None:
    base = sdxl if name == "sdxl" else sketch_sd1
    shot = Shot("a red cat", seed=3, steps=STEPS, scheduler=scheduler, spacing=spacing)
    theirs = their_latents(pipelines[name], shot)
    ours = [event.latents for event in denoise(base, shot) if isinstance(event, Step)]
    order = 2 if scheduler in ("heun", "dpmpp_sde") else 1
    for at, latents in enumerate(ours[:-1]):
        torch.testing.assert_close(latents, theirs[order * (at + 1) - 1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours[-1], theirs[-1], rtol=1e-4, atol=1e-4)


def test_four_trailing_steps_begin_at_the_last_timestep(sdxl: Base) -> None:
    scheduler = sdxl.scheduler("euler", "trailing")
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]


def test_lcm_takes_steps_of_its_distillation_or_spaces_them_evenly(sdxl: Base) -> None:
    """999, 759, 499, 259 are four of the fifty of LCM-LoRA; DMD2's are trailing ones."""
    for spacing, expected in ((None, [999, 759, 499, 259]), ("trailing", [999, 749, 499, 249])):
        scheduler = sdxl.scheduler("lcm", spacing)
        scheduler.set_timesteps(4)
        assert scheduler.timesteps.tolist() == expected


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"spacing": "even"}, "spacing must be one of leading, .*; it is 'even'"),
        ({"scheduler": "lcm", "spacing": "karras"}, "one of trailing, sgm_uniform for lcm"),
        ({"scheduler": "ddim", "spacing": "karras"}, "one of leading, .*sgm_uniform for ddim"),
        ({"scheduler": "tcd", "steps": 51}, "steps must be at most 50 for tcd, .* trailing"),
    ],
)
def test_what_no_sampler_does_is_refused(sdxl: Base, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        denoise(sdxl, Shot("a", **fields))


def test_the_bases_own_scheduler_is_spaced_where_it_can_be(sdxl: Base) -> None:
    own = dataclasses.replace(sdxl, scheduler_config={"_class_name": "LCMScheduler"})
    with pytest.raises(BadInput, match="LCMScheduler can't space its timesteps 'leading'"):
        denoise(own, Shot("a", spacing="leading"))
    with pytest.raises(BadInput, match="can't make 51"):
        denoise(own, Shot("a", steps=51))
    assert sdxl.scheduler(None, "karras").config["use_karras_sigmas"]
