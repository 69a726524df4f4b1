"""What a shot may be, and the texts in a picture's file."""

import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import compose
from studio.adapters.adapter import Adapter
from studio.bases.base import Base
from studio.errors import BadInput
from studio.requests.a1111 import parameters_text
from studio.requests.picture_file import open_picture, picture_sha256, read_recipe, save_picture
from studio.requests.resolved_shot import resolve
from studio.requests.shot import Shot
from studio.requests.shot_recipe import recipe, shot_to_dict


def stand_in() -> Base:
    """As much of a base as a recipe asks for."""
    return cast(
        Base,
        SimpleNamespace(
            source="sketch",
            name="sketch",
            family="sdxl",
            fingerprint=lambda: "0123456789abcdef",
            precision="fp32",
            stored={},
            device=SimpleNamespace(type="cpu"),
            prediction_type="epsilon",
            vae_source="",
            vae=SimpleNamespace(use_tiling=False),
            size=64,
            step=16,
            latent_factor=4,
            scheduler=lambda name: SimpleNamespace(),
        ),
    )


def text_of(shot: Shot) -> str:
    return parameters_text(resolve(shot, stand_in()), stand_in())


def recipe_of(shot: Shot) -> dict[str, object]:
    return recipe(resolve(shot, stand_in()), stand_in())


def rendered(shot: Shot, colour: str = "black") -> Image.Image:
    """A picture with its recipe, as compose renders it."""
    picture = Image.new("RGB", (64, 64), colour)
    picture.info |= {"parameters": text_of(shot), "studio": json.dumps(recipe_of(shot))}
    return picture


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"prompt": 3}, "prompt must be a text; it is 3"),
        ({"negative": "a\0b"}, "negative holds characters that no file can keep"),
        ({"prompt": "\ud800"}, "prompt holds characters that no file can keep"),
        ({"seed": -1}, "seed must be a whole number from 0 to .*; it is -1"),
        ({"seed": True}, "seed must be .*; it is True"),
        ({"steps": 2.5}, "steps must be a whole number from 1 to 1000; it is 2.5"),
        ({"width": 100_000}, "width must be a whole number from 8 to 8192; it is 100000"),
        ({"guidance": float("inf")}, "guidance must be a number from 0 to 1000; it is inf"),
        ({"scheduler": "unipcc"}, "must be one of euler, euler_a, .*; it is 'unipcc'"),
        ({"adapters": [("a.pt", "1")]}, "adapters must be a strength from -100 to 100; it is '1'"),
        ({"denoise": 1.5}, "denoise must be a number from 0 to 1; it is 1.5"),
        ({"init_image": "a.png", "steps": 2, "denoise": 0.4}, "less than one step"),
    ],
)
def test_first_wrong_field_is_named(fields: dict[str, object], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        Shot(**({"prompt": "a cat"} | fields)).check()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "adapters", ["a.safetensors", ("a.safetensors", 1.0), ["a.safetensors"], [("a.safetensors",)]]
)
def test_adapters_come_with_their_strengths(adapters: Any) -> None:
    with pytest.raises(BadInput, match=r"such as \[\('robot.safetensors', 1.0\)\]"):
        Shot("a cat", adapters=adapters)


def test_files_of_a_shot_may_lie_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (32, 64)).save(tmp_path / "start.png")
    assert resolve(Shot("a cat", init_image="~/start.png"), stand_in()).height == 96
    with pytest.raises(BadInput, match=f"there is no adapter {tmp_path}/no.safetensors"):
        resolve(Shot("a cat", adapters=[("~/no.safetensors", 1.0)]), stand_in())


def test_an_array_is_no_picture_to_start_from() -> None:
    with pytest.raises(BadInput, match="Pillow's Image"):
        resolve(Shot("a cat", init_image=np.zeros((64, 64, 3))), stand_in())  # type: ignore[arg-type]


def test_size_is_the_bases_own() -> None:
    resolved = resolve(Shot("a cat"), stand_in())
    assert (resolved.width, resolved.height) == (64, 64)
    with pytest.raises(BadInput, match="height: 65 is not a multiple of 4"):
        resolve(Shot("a cat", height=65), stand_in())


@pytest.mark.parametrize(
    ("start", "size"), [((640, 640), (64, 64)), ((400, 200), (96, 48)), ((20, 2000), (16, 640))]
)
def test_picture_to_start_from_gives_its_proportions(
    start: tuple[int, int], size: tuple[int, int]
) -> None:
    resolved = resolve(Shot("a cat", init_image=Image.new("RGB", start)), stand_in())
    assert (resolved.width, resolved.height) == size
    given = Shot("a cat", init_image=Image.new("RGB", start), width=32, height=64)
    assert resolve(given, stand_in()).width == 32


def test_a_picture_in_memory_lies_over_white_as_one_of_a_file(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 51))
    clear.save(tmp_path / "clear.png")
    found = [
        resolve(Shot("a", init_image=one), stand_in()) for one in (clear, tmp_path / "clear.png")
    ]
    pixels = [one.init_image and one.init_image.getpixel((0, 0)) for one in found]
    assert pixels == [(255, 204, 204)] * 2


def test_parameters_are_a1111s() -> None:
    shot = Shot("a cat, (ink:1.2)\nsecond line", negative="bad", seed=7, steps=20)
    assert text_of(dataclasses.replace(shot, scheduler="dpmpp_2m")) == (
        "a cat, (ink:1.2)\nsecond line\nNegative prompt: bad\n"
        "Steps: 20, Sampler: DPM++ 2M, CFG scale: 5, Seed: 7, Size: 64x64, "
        "Model hash: 0123456789, Model: sketch, "
        f"Version: {text_of(shot).rpartition('Version: ')[2]}"
    )


def test_adapters_stand_in_both_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studio.adapters.compatibility.check_fits", lambda adapter, base: None)
    adapter = Adapter(
        deltas={},
        kind="lora",
        family="sdxl",
        triggers=("sks",),
        name="robot",
        path=Path("robot.st"),
        sha256="ab" * 32,
    )
    shot = Shot("a sks robot", adapters=((adapter, 0.8), (adapter, 0.1)))
    text = text_of(shot)
    assert 'Lora hashes: "robot: abababababab, robot: abababababab"' in text
    assert 'Adapters: "robot: 0.8, robot: 0.1", Method: merge' in text
    written = cast(list[dict[str, object]], recipe_of(shot)["adapters"])
    assert written[0] == {
        "name": "robot",
        "path": os.path.abspath("robot.st"),
        "sha256": "ab" * 32,
        "strength": 0.8,
        "kind": "lora",
        "triggers": ["sks"],
    }


def test_saved_picture_is_read_back(tmp_path: Path) -> None:
    shot = Shot("ein Kätzchen 猫", seed=3)
    path = save_picture(rendered(shot, "red"), tmp_path / "a/b.png")
    assert read_recipe(path) == json.loads(json.dumps(recipe_of(shot)))
    with Image.open(path) as saved:
        assert saved.info["parameters"] == text_of(shot)
    assert [file.name for file in path.parent.iterdir()] == ["b.png"]


def test_only_png_keeps_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"saved as \.png"):
        save_picture(rendered(Shot("a cat")), tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "carries no recipe"), ('{"version": 99}', "of version 99")],
)
def test_recipe_that_is_none(tmp_path: Path, text: str | None, says: str) -> None:
    texts = PngImagePlugin.PngInfo()
    if text is not None:
        texts.add_text("studio", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=texts)
    with pytest.raises(BadInput, match=says):
        read_recipe(tmp_path / "a.png")


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("not a picture")
    for read in (open_picture, read_recipe):
        with pytest.raises(BadInput, match=r"note\.png can't be read as a picture"):
            read(tmp_path / "note.png")
        with pytest.raises(BadInput, match="There is no picture at"):
            read(tmp_path / "gone.png")


def test_picture_too_large_to_open_is_refused_undecoded(tmp_path: Path) -> None:
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    with pytest.raises(BadInput, match=r"10000 x 10000 pixels; at most 64,000,000"):
        open_picture(tmp_path / "large.png")


def test_sha256_tells_pictures_apart() -> None:
    wide, tall = Image.new("RGB", (4, 2)), Image.new("RGB", (2, 4))
    assert picture_sha256(wide) == picture_sha256(wide.copy()) != picture_sha256(tall)


def test_what_older_versions_queued_is_read(tmp_path: Path) -> None:
    queued = {
        "prompt": "a sks robot",
        "base": "sketch",
        "negative": "",
        "seed": 3,
        "width": None,
        "height": 64,
        "steps": 10,
        "guidance": 5.0,
        "scheduler": None,
        "adapters": [["/a/robot.safetensors:content", 0.5]],
        "method": {"name": "switch", "options": {"interval": 2, "order": []}},
        "init_image": "/a/start.png",
        "denoise": 0.6,
    }
    shot = Shot(
        "a sks robot",
        seed=3,
        height=64,
        steps=10,
        adapters=(("/a/robot.safetensors:content", 0.5),),
        method=compose.Switch(interval=2),
        init_image="/a/start.png",
        syntax="cut",
    )
    assert compose.shot_from_dict(queued) == shot
    assert compose.shot_from_dict(queued | {"method": None}).method is None
    written = json.loads(json.dumps(shot_to_dict(shot)))
    assert compose.shot_from_dict(written) == shot
    assert written["adapters"] == [
        {"name": "robot", "path": "/a/robot.safetensors", "strength": 0.5, "half": "content"}
    ]
