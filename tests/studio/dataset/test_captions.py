"""Where captions come from: files beside pictures, and metadata files."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from studio.dataset.pictures import Pictures, read_pictures
from studio.errors import BadInput


def read(folder: Path) -> Pictures:
    return read_pictures(folder, trigger="a sks robot", size=64, step=16)


def captions(folder: Path) -> dict[str, str]:
    return {example.path.name: example.caption for example in read(folder).examples}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    return tmp_path / "a.png"


NAMES = ("a.txt", "a.TXT", "a.caption", "a.Caption", "a.png.txt", "a.png.caption")


@pytest.mark.parametrize("name", NAMES)
def test_a_caption_file_is_found_by_any_of_its_names(picture: Path, name: str):
    picture.with_name(name).write_text("a robot\nin red")
    assert captions(picture.parent) == {"a.png": "a robot in red"}


def test_the_first_name_comes_first_and_an_empty_file_is_passed_over(picture: Path):
    for name in reversed(NAMES):
        picture.with_name(name).write_text(name)
        assert captions(picture.parent) == {"a.png": name}
    picture.with_name("a.txt").write_text(" \n")
    assert captions(picture.parent) == {"a.png": "a.TXT"}


def test_a_caption_file_without_a_picture_is_named(picture: Path):
    for name in ("a.txt", "b.txt", "A.txt", "c.png.caption"):
        picture.with_name(name).write_text("a robot")
    found = read(picture.parent)
    assert len(found.examples) == 1
    (told,) = found.remarks()
    assert told.startswith("Left out 3 captions: ") and told.count("belongs to no picture") == 1
    assert all(name in told for name in ("b.txt", "A.txt", "c.png.caption"))


def written(folder: Path, rows: list[dict[str, object]], name: str) -> None:
    """Rows as metadata.jsonl or metadata.csv."""
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        if name.endswith(".jsonl"):
            file.writelines(f"{json.dumps(row)}\n" for row in rows)
            return
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
def test_metadata_may_call_its_captions_by_three_names(picture: Path, name: str, column: str):
    text = 'one, "two"\nthree; über'
    row: dict[str, object] = {"width": 64, "file_name": "a.png", column: text, "label": "dog"}
    written(picture.parent, [row], name)
    assert captions(picture.parent) == {"a.png": 'one, "two" three; über'}


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_without_a_caption_there_the_trigger_is_it(picture: Path, name: str):
    written(picture.parent, [{"file_name": "a.png", "text": None}], name)
    assert captions(picture.parent) == {"a.png": "a sks robot"}


def test_the_first_column_that_says_something_is_taken(picture: Path):
    row: dict[str, object] = {"file_name": "a.png", "prompt": "third", "caption": "second"}
    written(picture.parent, [row | {"text": None}], "metadata.jsonl")
    assert captions(picture.parent) == {"a.png": "second"}


def test_jsonl_comes_before_csv(picture: Path):
    for name in ("metadata.csv", "metadata.jsonl"):
        written(picture.parent, [{"file_name": "a.png", "text": name}], name)
        assert captions(picture.parent) == {"a.png": name}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "metadata.csv",
            "file_name,label\na.png,dog\n",
            r"metadata\.csv, line 2, has no caption; its columns are file_name, label\. Call",
        ),
        ("metadata.csv", "image,text\na.png,x\n", "has no file_name; its columns are image, text"),
        ("metadata.csv", "file_name;text\na.png;x\n", "its columns are file_name;text"),
        (
            "metadata.csv",
            'file_name,text\na.png,"' + "x" * 200_000,
            "is no CSV after line 1: field larger",
        ),
        ("metadata.jsonl", '{"file_name": "a.png", "text": 3}', "has a text that is no text: 3"),
        ("metadata.parquet", "PAR1", r"is not read: save it as metadata\.csv"),
    ],
)
def test_metadata_without_captions_is_refused(picture: Path, name: str, text: str, said: str):
    picture.with_name(name).write_text(text)
    with pytest.raises(BadInput, match=said):
        read(picture.parent)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_a_picture_that_is_named_but_is_not_there_is_told(picture: Path, name: str):
    written(picture.parent, [{"file_name": "lost.png", "text": "x"}], name)
    (skipped,) = read(picture.parent).skipped
    assert (skipped.path.name, skipped.reason) == (
        "lost.png",
        f"is named in {name} but is not there",
    )
