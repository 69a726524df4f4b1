"""A picture carries its recipe, and the recipe makes the same picture again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compose import Merge, decode, like, render
from studio.adapters.load import load_adapter
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.errors import BadInput
from studio.requests.picture_file import read_recipe, save_picture
from studio.requests.resolved_shot import resolve
from studio.requests.shot import Shot

Loras = dict[str, tuple[Path, Path]]


@pytest.fixture
def lora(lora_files: Loras, tmp_path: Path) -> Path:
    """A LoRA file that a test may change or lose."""
    return Path(shutil.copy(lora_files["sdxl"][0], tmp_path / "robot.safetensors"))


def made(base: Base, shot: Shot, path: Path) -> Image.Image:
    picture = render(base, shot)
    save_picture(picture, path)
    return picture


def again(base: Base, path: Path) -> Image.Image:
    return render(base, like(read_recipe(path), base))


def test_made_again_bit_for_bit(sdxl: Base, lora: Path, tmp_path: Path) -> None:
    start = Image.effect_noise((70, 60), 90).convert("RGB")
    start.save(tmp_path / "start.png")
    shot = Shot(
        "a sks robot, (ink:1.2) ünï 猫",
        negative='blurry: "bad"',
        seed=2**40,
        steps=4,
        guidance=3.5,
        scheduler="dpmpp_sde",
        spacing="karras",
        adapters=((lora, 0.7), (load_adapter(lora), -0.25)),
        method=Merge(),
        init_image=tmp_path / "start.png",
        denoise=0.5,
    )
    picture = made(sdxl, shot, tmp_path / "out" / "picture.png")
    repeated = again(sdxl, tmp_path / "out" / "picture.png")
    assert repeated.tobytes() == picture.tobytes() and repeated.size == picture.size
    made(sdxl, like(read_recipe(tmp_path / "out/picture.png"), sdxl), tmp_path / "second.png")
    assert (tmp_path / "second.png").read_bytes() == (tmp_path / "out/picture.png").read_bytes()


def test_picture_in_memory_tells_its_recipe(sdxl: Base, tmp_path: Path) -> None:
    shot = Shot("a cat", steps=1)
    picture = made(sdxl, shot, tmp_path / "cat.png")
    with Image.open(tmp_path / "cat.png") as saved:
        assert saved.info["parameters"] == picture.info["parameters"]
        assert json.loads(saved.info["studio"]) == json.loads(picture.info["studio"])
        assert np.array_equal(np.array(saved), np.array(picture))


def test_develop_is_render_without_the_denoising(sdxl: Base) -> None:
    shot = Shot("a cat", steps=1)
    latents = render(sdxl, shot, output="latents")
    assert decode(sdxl, shot, latents).tobytes() == render(sdxl, shot).tobytes()


def test_absent_or_changed_adapter_is_an_error(sdxl: Base, lora: Path, tmp_path: Path) -> None:
    made(sdxl, Shot("a cat", steps=1, adapters=((lora, 1.0),)), tmp_path / "cat.png")
    content = bytearray(lora.read_bytes())
    content[-1] ^= 1
    lora.write_bytes(content)
    with pytest.raises(BadInput, match=r"robot\.safetensors has changed since"):
        again(sdxl, tmp_path / "cat.png")
    lora.unlink()
    with pytest.raises(BadInput, match=r"robot\.safetensors .*isn't there"):
        again(sdxl, tmp_path / "cat.png")


def test_another_base_is_an_error(bases: dict[str, Base], tmp_path: Path) -> None:
    made(bases["sd1"], Shot("a cat", steps=1), tmp_path / "cat.png")
    with pytest.raises(BadInput, match=r"was made on .*tiny-sd1"):
        again(bases["sd2"], tmp_path / "cat.png")


def test_start_without_a_file_has_to_be_given_again(sdxl: Base, tmp_path: Path) -> None:
    start = Image.effect_noise((64, 64), 90).convert("RGB")
    picture = made(sdxl, Shot("a cat", steps=2, init_image=start), tmp_path / "cat.png")
    recipe = read_recipe(tmp_path / "cat.png")
    with pytest.raises(BadInput, match="give that with init_image"):
        like(recipe, sdxl)
    with pytest.raises(BadInput, match="isn't the picture"):
        like(recipe, sdxl, init_image=Image.new("RGB", (64, 64)))
    assert render(sdxl, like(recipe, sdxl, init_image=start)).tobytes() == picture.tobytes()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": "7"}, "seed must be a whole number .*; it is '7'"),
        ({"steps": True}, "steps must be a whole number .*; it is True"),
        ({"guidance": None}, "guidance must be a number .*; it is None"),
        ({"method": {"name": "_denoise", "options": {}}}, "no method '_denoise'"),
        ({"adapters": [3]}, "no JSON object"),
        ({"scheduler": "os.system"}, "scheduler must be one of .*; it is 'os.system'"),
    ],
)
def test_damaged_recipe_is_refused(
    sdxl: Base, tmp_path: Path, change: dict[str, object], says: str
) -> None:
    made(sdxl, Shot("a cat", steps=1), tmp_path / "cat.png")
    with pytest.raises(BadInput, match=says):
        like(read_recipe(tmp_path / "cat.png") | change, sdxl)


def test_what_the_base_predicted_is_part_of_the_recipe(sd1_folder: Path, tmp_path: Path) -> None:
    other = load_base(sd1_folder, prediction="v_prediction")
    made(other, Shot("a cat", steps=1), tmp_path / "cat.png")
    recipe = read_recipe(tmp_path / "cat.png")
    assert like(recipe, other).prompt == "a cat"
    with pytest.raises(BadInput, match="predicting v_prediction"):
        like(recipe, load_base(sd1_folder))


def test_a_picture_of_no_numbers_is_refused(sdxl: Base) -> None:
    latents = torch.full((1, 4, 8, 8), torch.nan)
    with pytest.raises(BadInput, match="lower the strengths"):
        decode(sdxl, resolve(Shot("a cat"), sdxl), latents)
