"""Captions changed all at once, and written beside their pictures."""

from pathlib import Path

import pytest
from PIL import Image

from studio.dataset.caption_edits import CaptionEdit, write_captions
from studio.dataset.pictures import read_pictures
from studio.errors import BadInput


def captions(folder: Path) -> dict[str, str]:
    read = read_pictures(folder, trigger="none", size=64, step=16)
    return {example.path.name: example.caption for example in read.examples}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (64, 64)).save(tmp_path / name)
    (tmp_path / "a.txt").write_text("a red robot")
    (tmp_path / "b.png.caption").write_text("a red house")
    return tmp_path


@pytest.mark.parametrize(
    ("edit", "before", "after"),
    [
        (CaptionEdit(find="red", replace="blue"), "a red robot,  red", "a blue robot, blue"),
        (CaptionEdit(find="red ", replace=""), "a red robot", "a robot"),
        (CaptionEdit(find="Red", replace="blue"), "a red robot", "a red robot"),
        (CaptionEdit(prefix="photo of "), "a robot", "photo of a robot"),
        (CaptionEdit(prefix="photo of"), "photo of a robot", "photo of a robot"),
        (CaptionEdit(suffix=", ink style"), "a robot", "a robot, ink style"),
        (CaptionEdit(suffix="in ink"), "a robot", "a robot in ink"),
        (CaptionEdit(suffix="in ink"), "a robot in ink", "a robot in ink"),
        (CaptionEdit(trigger="sks robot"), "a robot", "sks robot, a robot"),
        (CaptionEdit(trigger="sks robot"), "a SKS Robot", "a SKS Robot"),
        (CaptionEdit(trigger="sks robot"), "", "sks robot"),
        (CaptionEdit(trigger="sks"), "a robot in masks", "sks, a robot in masks"),
        (CaptionEdit(trigger="<sks>"), "a <sks> robot", "a <sks> robot"),
        (CaptionEdit("a", "b", "b", "b", "b"), "a", "b"),
        (CaptionEdit(), " a\n robot ", "a robot"),
    ],
)
def test_an_edit_of_a_caption(edit: CaptionEdit, before: str, after: str) -> None:
    assert edit.apply(before) == after


def test_captions_are_written_where_they_are_read(folder: Path) -> None:
    write_captions({folder / name: f"new\n{name}" for name in ("a.png", "b.png", "c.png")})
    assert captions(folder) == {name: f"new {name}" for name in ("a.png", "b.png", "c.png")}
    assert not (folder / "b.txt").exists()
    write_captions({folder / "a.png": "", folder / "b.png": " "})
    assert captions(folder) == {"a.png": "none", "b.png": "none", "c.png": "new c.png"}
    assert not list(folder.glob(".*"))


def test_pictures_that_would_share_a_caption_are_refused(folder: Path) -> None:
    Image.new("RGB", (64, 64)).save(folder / "a.jpg")
    with pytest.raises(BadInput, match=r"a.png and a.jpg would share the caption a.txt"):
        write_captions({folder / "b.png": "new", folder / "a.png": "new"})
    assert captions(folder)["b.png"] == "a red house"
    (folder / "2_dog").mkdir()
    Image.new("RGB", (64, 64)).save(folder / "2_dog" / "b.png")  # which has a caption of its own
    write_captions({folder / "b.png": "new", folder / "2_dog" / "b.png": "newer"})
    assert (folder / "2_dog" / "b.txt").read_text() == "newer"
