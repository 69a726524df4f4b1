"""Several folders with weights, and sub-folders as kohya names them."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image

from studio.dataset.folders import Folder, Sources, parse_folders
from studio.dataset.pictures import Example, read_pictures
from studio.errors import BadInput


def read(sources: Sources) -> dict[str, Example]:
    """The pictures by their names."""
    found = read_pictures(sources, trigger="a sks robot", size=64, step=16)
    return {example.path.name: example for example in found.examples}


def paint(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), "red").save(path)
    return path


def test_a_sub_folder_gives_its_pictures_repeats_and_words(tmp_path: Path) -> None:
    paint(tmp_path / "plain.png")
    paint(tmp_path / "10_sks robot" / "ten.png")
    paint(tmp_path / "10_sks robot" / "said.png").with_suffix(".txt").write_text("a robot at sea")
    paint(tmp_path / "3_ink_style" / "three.png")
    found = read(tmp_path)
    told = {name: (example.weight, example.caption) for name, example in found.items()}
    assert told == {
        "plain.png": (1, "a sks robot"),
        "ten.png": (10, "sks robot"),
        "said.png": (10, "a robot at sea"),
        "three.png": (3, "ink_style"),
    }


def test_captions_are_read_from_kohyas_caption_files_too(tmp_path: Path) -> None:
    paint(tmp_path / "2_dog" / "a.png").with_suffix(".caption").write_text("a dog, sitting\n")
    assert read(tmp_path)["a.png"].caption == "a dog, sitting"


@pytest.mark.parametrize("name", ["more", "0_sks robot", "10_", "10", "_dog", "ten_dog", "-1_dog"])
def test_other_sub_folders_are_not_looked_into(tmp_path: Path, name: str) -> None:
    paint(tmp_path / "a.png")
    paint(tmp_path / name / "b.png")
    assert list(read(tmp_path)) == ["a.png"]


def test_metadata_of_the_whole_captions_pictures_of_its_parts(tmp_path: Path) -> None:
    """Each picture is read once, and a sub-folder's own metadata comes first."""
    for name in ("a", "b", "c"):
        paint(tmp_path / "2_dog" / f"{name}.png")
    rows = [{"file_name": f"2_dog/{name}.png", "text": "above"} for name in "ab"]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    row = {"file_name": "a.png", "text": "own"}
    (tmp_path / "2_dog" / "metadata.jsonl").write_text(json.dumps(row))
    found = read_pictures(tmp_path, trigger="t", size=64, step=16).examples
    assert [(e.path.name, e.caption, e.weight) for e in found] == [
        ("a.png", "own", 2),
        ("b.png", "above", 2),
        ("c.png", "dog", 2),
    ]


def test_weights_multiply_repeats(tmp_path: Path) -> None:
    paint(tmp_path / "one" / "a.png")
    paint(tmp_path / "two" / "b.png")
    paint(tmp_path / "two" / "3_dog" / "c.png")
    found = read([tmp_path / "one", (str(tmp_path / "two"), 0.1)])
    weights = {name: example.weight for name, example in found.items()}
    assert weights == {"a.png": 1, "b.png": Fraction(1, 10), "c.png": Fraction(3, 10)}
    assert [example.path.name for example in found.values()] == ["a.png", "b.png", "c.png"]


def test_a_part_without_pictures_is_named(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    (tmp_path / "10_dog").mkdir()
    with pytest.raises(BadInput, match=r"no pictures in .*10_dog"):
        read(tmp_path)
    (tmp_path / "10_dog").rmdir()
    with pytest.raises(BadInput, match=r"There is no folder .*nowhere"):
        read([tmp_path, tmp_path / "nowhere"])


def test_only_parts_may_hold_pictures(tmp_path: Path) -> None:
    paint(tmp_path / "1_dog" / "a.png")
    assert list(read(tmp_path)) == ["a.png"]


@pytest.mark.parametrize("weight", [0, -1, 1001, float("nan"), float("inf")])
def test_a_weight_out_of_range_is_refused(weight: float) -> None:
    with pytest.raises(BadInput, match="The weight of photos lies between"):
        parse_folders([("photos", weight)])


@pytest.mark.parametrize("given", [[], ["photos", 2], ("photos", 2), [("photos", "2")]])
def test_what_names_no_folders_is_refused(given: Sources) -> None:
    with pytest.raises(BadInput, match=r"is no folder of pictures: give|No folder"):
        parse_folders(given)


def test_folders_are_given_alone_in_pairs_or_ready_made() -> None:
    expected = (Folder(Path("a")), Folder(Path("b"), 2.0), Folder(Path("c"), 0.5))
    assert parse_folders(["a", (Path("b"), 2), Folder(Path("c"), 0.5)]) == expected
    assert parse_folders("a") == parse_folders(Path("a")) == expected[:1]
