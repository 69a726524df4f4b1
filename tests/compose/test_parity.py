"""Studio's latents against those of the diffusers pipelines, from the same initial noise."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
    UniPCMultistepScheduler,
)
from PIL import Image
from torch import Tensor

from compose import render
from studio.adapters.load import load_adapter
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.requests.shot import Shot
from tests.compose.conftest import Pipeline, noise, open_pipeline

FromPicture = StableDiffusionImg2ImgPipeline | StableDiffusionXLImg2ImgPipeline
Pipelines = Callable[[str], Pipeline]
SCHEDULERS = {
    "euler": (EulerDiscreteScheduler, {}),
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
}


def reference(pipeline: Pipeline | FromPicture, shot: Shot, start: Tensor | None = None) -> Tensor:
    """What the pipeline makes of a shot; start: the encoded picture of img2img."""
    if shot.scheduler is not None:
        kind, settings = SCHEDULERS[shot.scheduler]
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **settings)
    width, height = shot.width or 64, shot.height or 64
    given = {
        "prompt": shot.prompt,
        "negative_prompt": shot.negative or None,
        "num_inference_steps": shot.steps,
        "guidance_scale": shot.guidance,
        "output_type": "latent",
    }
    if start is None:
        latents = noise(shot, (height // 8, width // 8))
        generator = torch.Generator().manual_seed(shot.seed)
        torch.randn(latents.shape, generator=generator)  # the pipeline was given these
        given |= {"latents": latents, "height": height, "width": width, "generator": generator}
    else:
        generator = torch.Generator().manual_seed(shot.seed)
        given |= {"image": start, "strength": shot.denoise, "generator": generator}
    return cast(Tensor, pipeline(**given, return_dict=False)[0])


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("guidance", [5.0, 1.0])
@pytest.mark.parametrize(
    ("family", "scheduler"),
    # Those of SDXL and SD 1 with every sampler are in test_samplers.py.
    [("sdxl", None), ("sd1", None), *(("sd2", one) for one in (None, *SCHEDULERS))],
)
def test_text_to_latents(
    bases: dict[str, Base],
    pipeline: Pipelines,
    family: str,
    scheduler: str | None,
    guidance: float,
) -> None:
    shot = Shot("a robot in ink", seed=3, steps=4, guidance=guidance, scheduler=scheduler)
    ours = render(bases[family], shot, output="latents")
    assert_same(ours, reference(pipeline(family), shot))


@pytest.mark.parametrize("family", ["sdxl", "sd1"])
def test_negative_prompt_and_a_wide_picture(
    bases: dict[str, Base], pipeline: Pipelines, family: str
) -> None:
    shot = Shot("a cat", negative="a dog", steps=3, width=128, height=64, guidance=7.5)
    ours = render(bases[family], shot, output="latents")
    assert ours.shape == (1, 4, 8, 16)
    assert_same(ours, reference(pipeline(family), shot))


@pytest.mark.parametrize("kind", [HeunDiscreteScheduler, EulerAncestralDiscreteScheduler])
def test_own_scheduler_of_second_order_or_with_noise(
    sdxl_folder: Path, tmp_path: Path, kind: type[HeunDiscreteScheduler]
) -> None:
    made = open_pipeline(sdxl_folder)
    made.scheduler = kind.from_config(made.scheduler.config)
    made.save_pretrained(tmp_path / "base")
    shot = Shot("a red star", seed=5, steps=3)
    ours = render(load_base(tmp_path / "base"), shot, output="latents")
    assert_same(ours, reference(made, shot))


@pytest.mark.parametrize("scheduler", [None, "euler", "dpmpp_2m"])
@pytest.mark.parametrize("family", ["sdxl", "sd1"])
def test_picture_to_latents(
    bases: dict[str, Base], pipeline: Pipelines, family: str, scheduler: str | None
) -> None:
    picture = Image.effect_mandelbrot((64, 64), (-2.0, -1.5, 1.0, 1.5), 50).convert("RGB")
    shot = Shot("a blue cat", seed=4, steps=7, denoise=0.6, scheduler=scheduler, init_image=picture)
    made = pipeline(family)
    xl = family == "sdxl"
    kind = StableDiffusionXLImg2ImgPipeline if xl else StableDiffusionImg2ImgPipeline
    start = kind(**made.components)
    start.set_progress_bar_config(disable=True)
    with torch.no_grad():
        pixels = start.image_processor.preprocess(picture).contiguous()  # as laid out in memory
        encoded = made.vae.encode(pixels).latent_dist.mode() * made.vae.config.scaling_factor
    ours = render(bases[family], shot, output="latents")
    assert_same(ours, reference(start, shot, encoded))


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")
@pytest.mark.parametrize(("family", "guidance"), [("sd2", 6.0), ("sdxl", 1.0)])
def test_two_merged_loras(
    bases: dict[str, Base],
    pipeline: Pipelines,
    lora_files: dict[str, tuple[Path, Path]],
    family: str,
    guidance: float,
) -> None:
    one, two = lora_files[family]
    shot = Shot(
        "a sks cat in ink style",
        negative="photo",
        seed=9,
        steps=2,  # a random UNet makes the last bits a thousandfold in three
        guidance=guidance,
        adapters=((load_adapter(one), 0.8), (two, -0.5)),
    )
    made = pipeline(family)
    plain = reference(made, shot)
    made.load_lora_weights(str(one), adapter_name="one")
    made.load_lora_weights(str(two), adapter_name="two")
    made.set_adapters(["one", "two"], [0.8, -0.5])
    theirs = reference(made, shot)
    assert (theirs - plain).abs().max() > 0.02  # the adapters do show
    assert_same(render(bases[family], shot, output="latents"), theirs)


def test_decoded_picture(sdxl: Base, pipeline: Pipelines) -> None:
    shot = Shot("a green dog", steps=2)
    made = pipeline("sdxl")
    latents = reference(made, shot)
    with torch.no_grad():
        decoded = made.vae.decode(latents / made.vae.config.scaling_factor).sample
    (expected,) = cast(list[Image.Image], made.image_processor.postprocess(decoded))
    ours, theirs = (np.array(picture, dtype=int) for picture in (render(sdxl, shot), expected))
    assert np.abs(ours - theirs).max() <= 1  # of 255
