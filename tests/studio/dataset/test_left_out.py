"""Which files of a folder are learned, and what is said of the others."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studio.dataset.left_out import Skipped, count_skipped, describe_skipped
from studio.dataset.pictures import Pictures, read_pictures
from studio.errors import BadInput

RAW = b"II*\0\x10\0\0\0CR\x02\0"  # Canon's: a TIFF, whose first picture is a thumbnail


def read(*folders: Path) -> Pictures:
    return read_pictures(folders, trigger="a sks robot", size=64, step=16)


def names(found: Pictures) -> list[str]:
    return [example.path.name for example in found.examples]


def photo(path: Path, kind: str = "JPEG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(values).save(path, format=kind)
    return path


def test_pictures_are_known_by_their_endings_in_any_case_or_by_how_they_start(tmp_path: Path):
    jpegs = ("B.JPG", "a.jpg", "c.jpeg", "d.jfif", "e.jpe", "f", "g.jpg_large", "h.png")
    for name in jpegs:
        photo(tmp_path / name)
    for name, kind in (("i.QOI", "QOI"), ("j.jp2", "JPEG2000"), ("k.ppm", "PPM")):
        photo(tmp_path / name, kind)
    photo(tmp_path / "l.orig", "PNG")
    found = read(tmp_path)
    assert names(found) == [*jpegs, "i.QOI", "j.jp2", "k.ppm", "l.orig"]
    assert not found.skipped


def test_what_the_system_leaves_and_texts_are_no_pictures(tmp_path: Path):
    photo(tmp_path / "a.jpg")
    for name in ("._a.jpg", "Thumbs.db", ".DS_Store", "desktop.ini", "BM.md", "model.safetensors"):
        (tmp_path / name).write_bytes(b"BM and P6 start pictures")
    found = read(tmp_path)
    assert names(found) == ["a.jpg"]
    assert not found.skipped


def test_what_is_not_read_is_counted_by_its_kind(tmp_path: Path):
    photo(tmp_path / "a.jpg")
    for name in ("1.CR2", "2.dng", "3.nef", "4.arw", "5.cr2"):
        (tmp_path / name).write_bytes(RAW)
    for name in ("clip.MOV", "art.psd", "logo.svg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:500])
    photo(tmp_path / "6.cr2", "TIFF")  # its thumbnail
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "6.cr2", "text": "a robot"}')
    found = read(tmp_path)
    assert names(found) == ["a.jpg"]
    counts = "6 camera raw, 1 PSD, 1 video, 1 SVG, 1 damaged"
    assert sorted(count_skipped(found.skipped).split(", ")) == sorted(counts.split(", "))
    raw = next(line for line in found.remarks() if "raw" in line)
    assert raw == (
        "Left out 6 camera raw: 1.CR2 is not read: develop it to JPEG or PNG "
        "(so too 2.dng, 3.nef); and 3 more."
    )


def test_heic_without_its_plug_in_is_named_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("studio.picture.formats.readable_formats", lambda: ("PNG", "JPEG"))
    monkeypatch.setattr("studio.picture.formats.find_spec", lambda name: None)
    photo(tmp_path / "a.jpg")
    for name in ("IMG_1.HEIC", "IMG_2.HEIC", "IMG_3"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    found = read(tmp_path)
    assert names(found) == ["a.jpg"]
    assert found.remarks() == [
        "Left out 3 HEIC: IMG_1.HEIC is a HEIC picture: run `pip install pillow-heif` to read it, "
        "or save it as JPEG or PNG (so too IMG_2.HEIC, IMG_3)."
    ]
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(BadInput, match=r"None of the pictures .* Left out 3 HEIC: .*pillow-heif"):
        read(tmp_path)


# Sub-folders


def test_a_sub_folder_with_pictures_is_named_with_their_number(tmp_path: Path):
    photo(tmp_path / "a.jpg")
    for name in ("closeups/b.jpg", "closeups/far/c.JPG", "closeups/notes.md", "raw/d.cr2"):
        photo(tmp_path / name)
    for name in ("empty", ".thumbnails", "masks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text("x")
    photo(tmp_path / ".thumbnails" / "a.png")
    photo(tmp_path / "masks" / "a.png")
    found = read(tmp_path)
    assert names(found) == ["a.jpg"]
    assert [(one.path.name, one.count) for one in found.skipped] == [("closeups", 2), ("raw", 1)]
    assert found.remarks() == [
        "Left out 3 in sub-folders: closeups holds 2 and is not looked into: give it as a folder "
        "of its own; raw holds 1 and is not looked into: give it as a folder of its own."
    ]


def test_a_folder_with_nothing_but_sub_folders_says_which_have_pictures(tmp_path: Path):
    photo(tmp_path / "closeups" / "a.jpg")
    with pytest.raises(BadInput, match=r"no pictures in .*: put some there.* closeups holds 1"):
        read(tmp_path)


def test_a_sub_folder_whose_pictures_metadata_names_is_not_left_out(tmp_path: Path):
    for name in ("a.jpg", "b.jpg"):
        photo(tmp_path / "train" / name)
    rows = [{"file_name": f"train/{name}", "text": name} for name in ("a.jpg", "b.jpg")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert not read(tmp_path).skipped
    (tmp_path / "metadata.jsonl").write_text(json.dumps(rows[0]))
    (skipped,) = read(tmp_path).skipped
    assert (skipped.path.name, skipped.count) == ("train", 1)


def test_kohyas_folder_img_is_looked_into(tmp_path: Path):
    """As its GUI lays a project out: img, reg, log and model."""
    photo(tmp_path / "img" / "10_sks robot" / "a.jpg")
    photo(tmp_path / "img" / "5_ink style" / "b.jpg")
    photo(tmp_path / "reg" / "1_robot" / "c.jpg")
    for name in ("log", "model"):
        (tmp_path / name).mkdir()
    found = read(tmp_path)
    told = [(one.path.name, one.caption, one.weight) for one in found.examples]
    assert told == [("a.jpg", "sks robot", 10), ("b.jpg", "ink style", 5)]
    taken, left_out = found.remarks()
    assert taken == f"Pictures are taken from the sub-folders of {tmp_path / 'img'}."
    assert left_out == (
        "Left out 1 in sub-folders: reg holds 1 of a class, which are learned as "
        "--prior-pictures only."
    )


# The sentences


def test_reasons_are_told_once_and_the_rest_is_counted():
    skipped = [Skipped(Path(f"{n}.png"), "is wet" if n % 3 else "is torn") for n in range(7)]
    skipped.append(Skipped(Path("more"), "holds 7", "in sub-folders", 7))
    assert count_skipped(skipped) == "7 damaged, 7 in sub-folders"
    assert describe_skipped(skipped) == [
        "Left out 7 damaged: 0.png is torn (so too 3.png, 6.png); 1.png is wet (so too 2.png, "
        "4.png); and 1 more.",
        "Left out 7 in sub-folders: more holds 7.",
    ]
    assert (count_skipped([]), describe_skipped([])) == ("", [])
