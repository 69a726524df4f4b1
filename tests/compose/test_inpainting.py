"""Pictures drawn anew inside a mask, and second passes, against diffusers' pipelines."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
)
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from compose import Composite, Made, Step, denoise, like, render, render_many, schedule
from studio.adapters.load import load_adapter
from studio.bases.base import Base
from studio.errors import BadInput
from studio.requests.picture_file import read_recipe, save_picture
from studio.requests.shot import Shot
from tests.compose.conftest import Pipeline
from tests.compose.test_parity import assert_same
from tests.compose.test_samplers import SAMPLERS

PICTURE = Image.effect_mandelbrot((64, 64), (-2.0, -1.5, 1.0, 1.5), 50).convert("RGB")
MASK = Image.new("L", (64, 64))
MASK.paste(255, (0, 16, 40, 64))  # white is drawn anew
Pipelines = Callable[[str], Pipeline]


def pipeline_of(kinds: dict[str, Any], made: Any, shot: Shot) -> Any:
    """Another pipeline of the same parts, with the shot's sampler."""
    xl = hasattr(made, "text_encoder_2")
    pipeline = kinds["sdxl" if xl else "sd1"](**made.components)
    pipeline.set_progress_bar_config(disable=True)
    if shot.scheduler is not None:
        kind, settings = SAMPLERS[shot.scheduler]
        pipeline.scheduler = kind.from_config({**made.scheduler.config, **settings})
    return pipeline


def encoded(made: Any, picture: Image.Image) -> Tensor:
    with torch.no_grad():
        pixels = made.image_processor.preprocess(picture).contiguous()  # as laid out in memory
        return made.vae.encode(pixels).latent_dist.mode() * made.vae.config.scaling_factor


@pytest.mark.parametrize("denoising", [0.6, 1.0])
@pytest.mark.parametrize("scheduler", [None, "euler", "euler_a", "dpmpp_2m", "ddim", "lcm"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_latents_are_those_of_diffusers_inpainting(
    bases: dict[str, Base],
    pipeline: Pipelines,
    family: str,
    scheduler: str | None,
    denoising: float,
) -> None:
    made: Any = pipeline(family)
    shot = Shot("a blue cat", seed=4, steps=5, denoise=denoising, scheduler=scheduler)
    kinds = {"sd1": StableDiffusionInpaintPipeline, "sdxl": StableDiffusionXLInpaintPipeline}
    start = encoded(made, PICTURE)
    theirs = pipeline_of(kinds, made, shot)(
        prompt=shot.prompt,
        image=start,
        mask_image=MASK,
        masked_image_latents=start,  # for UNets of nine channels, unused here
        height=64,
        width=64,
        strength=denoising,
        num_inference_steps=shot.steps,
        guidance_scale=shot.guidance,
        generator=torch.Generator().manual_seed(shot.seed),
        output_type="latent",
        return_dict=False,
    )[0]
    ours = render(
        bases[family],
        dataclasses.replace(shot, init_image=PICTURE, mask=MASK),
        output="latents",
    )
    assert_same(ours, cast(Tensor, theirs))


@pytest.mark.parametrize("scheduler", SAMPLERS)
def test_outside_the_mask_the_picture_keeps_its_own_pixels(sdxl: Base, scheduler: str) -> None:
    shot = Shot("a cat", steps=3, scheduler=scheduler, denoise=1.0, init_image=PICTURE, mask=MASK)
    before, after, inside = (
        np.array(one) for one in (PICTURE, render(sdxl, shot), MASK.convert("1"))
    )
    assert np.array_equal(before[~inside], after[~inside])
    assert (before[inside] != after[inside]).any(axis=-1).mean() > 0.9


def test_a_mask_of_another_size_is_brought_to_the_pictures(sdxl: Base) -> None:
    wide = PICTURE.resize((128, 64))
    shot = Shot("a cat", steps=2, init_image=wide, mask=MASK, width=128, height=64)
    before, after = np.array(wide), np.array(render(sdxl, shot))
    assert np.array_equal(before[:16], after[:16]) and np.array_equal(before[:, 84:], after[:, 84:])


@pytest.mark.parametrize("scheduler", ["euler", "ddim", "euler_a"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_second_pass_is_image_to_image_of_enlarged_latents(
    bases: dict[str, Base], pipeline: Pipelines, family: str, scheduler: str
) -> None:
    made: Any = pipeline(family)
    shot = Shot("a blue cat", seed=4, steps=4, scheduler=scheduler)
    kinds = {"sd1": StableDiffusionImg2ImgPipeline, "sdxl": StableDiffusionXLImg2ImgPipeline}
    draw = torch.Generator().manual_seed(shot.seed)
    given: dict[str, Any] = {
        "prompt": shot.prompt,
        "num_inference_steps": shot.steps,
        "guidance_scale": shot.guidance,
        "generator": draw,
        "output_type": "latent",
        "return_dict": False,
    }
    made.scheduler = pipeline_of(kinds, made, shot).scheduler
    noise = torch.randn(1, 4, 8, 8, generator=draw)
    small = made(latents=noise, height=64, width=64, **given)[0]
    large = F.interpolate(small, size=(16, 16), mode="bilinear")
    theirs = pipeline_of(kinds, made, shot)(image=large, strength=0.5, **given)[0]
    twice = dataclasses.replace(shot, second_pass=2.0, second_denoise=0.5)
    steps = [event for event in denoise(bases[family], twice) if isinstance(event, Step)]
    assert [(one.step, one.steps) for one in steps] == [(n, 6) for n in range(1, 7)]
    assert [one.preview().size for one in steps] == [(64, 64)] * 4 + [(128, 128)] * 2
    assert_same(steps[-1].latents, theirs)


def test_a_second_pass_keeps_the_mask_enlarged(sdxl: Base) -> None:
    """Outside are the picture's pixels, enlarged; a mask of all is as none."""
    shot = Shot("a cat", steps=4, init_image=PICTURE, mask=MASK, second_pass=2.0)
    large, mask = PICTURE.resize((128, 128), Image.Resampling.LANCZOS), MASK.resize((128, 128))
    before, after, inside = (
        np.array(one) for one in (large, render(sdxl, shot), mask.convert("1"))
    )
    edge = np.zeros_like(inside)
    edge[30:, :82] = True  # LANCZOS moves the border of the mask by a pixel
    assert np.array_equal(before[~edge], after[~edge])
    assert (before[inside] != after[inside]).any(axis=-1).mean() > 0.9
    everywhere = dataclasses.replace(shot, mask=Image.new("L", (64, 64), 255))
    without = dataclasses.replace(shot, mask=None)
    all_of_it, none = (render(sdxl, one, output="latents") for one in (everywhere, without))
    assert torch.equal(all_of_it, none)


def test_masks_and_second_passes_are_the_same_in_a_batch(
    sdxl: Base, lora_files: dict[str, tuple[Path, Path]]
) -> None:
    mix = tuple((load_adapter(one), 0.5) for one in lora_files["sdxl"])
    plain = Shot("a cat", steps=3, adapters=mix, method=Composite())
    masked = dataclasses.replace(plain, init_image=PICTURE, mask=MASK, scheduler="euler_a")
    twice = dataclasses.replace(plain, second_pass=1.5, scheduler="dpmpp_sde")
    both = dataclasses.replace(masked, second_pass=1.5)
    kinds = (masked, twice, both)
    shots = [dataclasses.replace(one, seed=seed) for one in kinds for seed in (1, 2)]
    for event in render_many(sdxl, shots):
        assert isinstance(event, Made), event
        alone = np.array(render(sdxl, event.shot), dtype=int)
        together = np.array(event.picture, dtype=int)
        assert alone.shape == together.shape
        assert np.abs(alone - together).mean() < 0.5  # of 255; other sums round differently


def test_the_recipe_holds_all_of_it(sdxl: Base, tmp_path: Path) -> None:
    for name, picture in (("start.png", PICTURE), ("mask.png", MASK)):
        picture.save(tmp_path / name)
    masked = Shot("a cat", steps=3, init_image=tmp_path / "start.png", mask=tmp_path / "mask.png")
    for shot in (masked, Shot("a cat", steps=3, second_pass=1.5, second_denoise=0.4)):
        picture = render(sdxl, shot)
        again = like(read_recipe(save_picture(picture, tmp_path / "made.png")), sdxl)
        assert render(sdxl, again).tobytes() == picture.tobytes()
    MASK.point(lambda value: 255 - value).save(tmp_path / "mask.png")
    recipe = read_recipe(save_picture(render(sdxl, masked), tmp_path / "made.png"))
    MASK.save(tmp_path / "mask.png")
    with pytest.raises(BadInput, match=r"mask\.png isn't the picture that this one was drawn in"):
        like(recipe, sdxl)


def test_a_schedule_tells_both_passes() -> None:
    found = schedule(Shot("a", steps=10, second_pass=2.0, second_denoise=0.4, scheduler="heun"))
    assert (len(found.steps), found.cost) == (14, 19 + 7)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"mask": MASK}, "mask needs init_image"),
        ({"init_image": PICTURE, "mask": Image.new("L", (9, 9))}, "black everywhere"),
        ({"second_pass": 1.0}, "second_pass must be a number above 1 .*; it is 1"),
        ({"second_pass": 2.0, "steps": 2, "second_denoise": 0.4}, "second_denoise must be larger"),
    ],
)
def test_what_can_not_be_drawn_is_refused(sdxl: Base, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        denoise(sdxl, Shot("a", **fields))
