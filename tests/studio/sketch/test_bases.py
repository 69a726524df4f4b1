"""The bases that come with the repository, opened by Studio and by plain diffusers."""

import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

import studio
from compose import render
from studio.sketch import captions, judge, report
from studio.sketch import scenes as world

ASSETS = Path(studio.__file__).parents[1] / "assets"
PIPELINES = {"sketch": StableDiffusionXLPipeline, "sketch-sd1": StableDiffusionPipeline}


def scenes(count: int, *, known: bool) -> list[world.Scene]:
    rng = np.random.default_rng([11, count])
    return [world.sample(rng) if known else world.sample_any(rng) for _ in range(count)]


@pytest.mark.parametrize("name", PIPELINES)
def test_diffusers_opens_it_and_draws_the_same_latents(name: str) -> None:
    pipeline = PIPELINES[name].from_pretrained(ASSETS / name, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    shot = studio.Shot("a red cat in space, watercolor", base=name, seed=3, steps=3, guidance=5.0)
    side = pipeline.unet.config.sample_size
    noise = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(3))
    theirs = pipeline(
        prompt=shot.prompt,
        negative_prompt="",
        num_inference_steps=shot.steps,
        guidance_scale=shot.guidance,
        latents=noise,
        output_type="latent",
        return_dict=False,
    )[0]
    ours = render(studio.load_base(name, device="cpu"), shot, output="latents")
    torch.testing.assert_close(ours, cast(torch.Tensor, theirs), rtol=1e-4, atol=1e-4)


def test_the_weights_are_few_and_in_half_precision() -> None:
    files = list(ASSETS.rglob("*.safetensors"))
    assert files
    assert sum(file.stat().st_size for file in files) < 50e6


@pytest.mark.quality
def test_the_judge_reads_drawings_of_the_whole_world() -> None:
    right = judge.accuracy(scenes(100, known=False))
    assert right.pop("instance") > 0.7  # all that makes up a subject at once
    assert min(right.values()) > 0.82, right


@pytest.mark.quality
def test_pictures_follow_their_prompts() -> None:
    """Far below what the report measures on hundreds, so that chance can't break it."""
    base, asked = studio.load_base("sketch", device="cpu"), scenes(4, known=True)
    pictures = [
        render(
            base,
            studio.Shot(captions.plain(scene), seed=number, steps=8, scheduler="dpmpp_2m"),
        )
        for number, scene in enumerate(asked)
    ]
    read = judge.read(pictures)
    for factor in report.GOALS:
        answers = [judge.answers_of(scene)[factor] for scene in asked]
        assert sum(one[factor] == a for one, a in zip(read, answers, strict=True)) >= 3


def test_the_report_lies_beside_the_weights() -> None:
    figures = json.loads((ASSETS / "sketch" / "report.json").read_text())
    assert figures["VAE, PSNR in dB"] >= 28
