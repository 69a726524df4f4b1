"""Reading a folder of pictures: captions, shapes, cuts, and what users give by mistake."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from studio.dataset.buckets import bucket_sizes, crop_to_bucket
from studio.dataset.pictures import Example, Pictures, read_pictures
from studio.errors import BadInput
from studio.picture import load_picture


def read(folder: Path, **options) -> Pictures:
    return read_pictures(folder, **({"trigger": "a sks robot", "size": 64, "step": 16} | options))


def cropped(example: Example, **options) -> tuple[torch.Tensor, tuple[int, int]]:
    return crop_to_bucket(load_picture(example.path), example.bucket, **options)


def paint(path: Path, size: tuple[int, int] = (64, 64), colour: str = "red") -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def noise(path: Path, size: tuple[int, int] = (200, 200)) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


# Captions


def test_captions_come_from_txt_then_metadata_then_the_trigger(tmp_path: Path):
    for name in ("a.png", "b.png", "c.png"):
        paint(tmp_path / name)
    (tmp_path / "a.txt").write_text("\ufeffa sks robot\nin the rain\n", encoding="utf-8")
    rows = [{"file_name": "a.png", "text": "unread"}, {"file_name": "b.png", "text": "überall"}]
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8"
    )
    captions = [example.caption for example in read(tmp_path).examples]
    assert captions == ["a sks robot in the rain", "überall", "a sks robot"]


def test_an_empty_caption_file_means_the_trigger(tmp_path: Path):
    paint(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("\n")
    assert read(tmp_path).examples[0].caption == "a sks robot"


def test_metadata_may_name_pictures_in_folders_below(tmp_path: Path):
    (tmp_path / "train").mkdir()
    paint(tmp_path / "train" / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "train/a.png", "text": "far"}')
    assert [example.caption for example in read(tmp_path).examples] == ["far"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1, is not JSON"),
        ("[]", "line 1, is not a JSON object"),
        ('{"file_name": "../a.png", "text": "x"}', "which is not in the folder"),
    ],
)
def test_bad_metadata_is_refused_with_its_line(tmp_path: Path, line: str, said: str):
    paint(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(BadInput, match=said):
        read(tmp_path)


@pytest.mark.parametrize("name", ["a.txt", "metadata.jsonl"])
def test_a_caption_that_is_not_utf8_is_refused_by_name(tmp_path: Path, name: str):
    paint(tmp_path / "a.png")
    (tmp_path / name).write_bytes("\nBär".encode("latin-1"))
    with pytest.raises(BadInput, match=rf"{name} is not UTF-8 text \(line 2\): save it as UTF-8"):
        read(tmp_path)


def test_all_captions_that_are_not_utf8_are_named_at_once(tmp_path: Path):
    (tmp_path / "10_more").mkdir()
    for name in ("a", "b", "c", "10_more/d"):
        paint(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_bytes("Bär".encode("utf-8" if name == "b" else "latin-1"))
    with pytest.raises(BadInput) as refused:
        read(tmp_path)
    first, *each = str(refused.value).splitlines()
    assert first == "3 mistakes:"
    assert [line.split(" is not")[0].strip() for line in each] == [
        str(tmp_path / f"{name}.txt") for name in ("a", "c", "10_more/d")
    ]


# What cannot be read


def test_damaged_pictures_of_every_kind_are_skipped(tmp_path: Path):
    paint(tmp_path / "good.png")
    for suffix in ("jpg", "png", "webp", "gif", "bmp", "tiff"):
        whole = noise(tmp_path / f"cut.{suffix}").read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(whole[: len(whole) // 3])
        (tmp_path / f"empty.{suffix}").write_bytes(b"")
        (tmp_path / f"text.{suffix}").write_text("no picture")
    found = read(tmp_path)
    assert [example.path.name for example in found.examples] == ["good.png"]
    assert len(found.skipped) == 18


def bomb(path: Path, side: int) -> Path:
    """A PNG that says it is side x side; its few bytes would decode to gigabytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    return path


@pytest.mark.parametrize("side", [40_000, 10_000])  # Pillow refuses the one, warns of the other
def test_a_decompression_bomb_is_skipped_before_it_is_decoded(tmp_path: Path, side: int):
    paint(tmp_path / "good.png")
    bomb(tmp_path / "bomb.png", side)
    (skipped,) = read(tmp_path).skipped
    assert skipped.path.name == "bomb.png"
    assert "too large to open safely" in skipped.reason


def test_a_strip_is_skipped_before_it_is_scaled_to_gigabytes(tmp_path: Path):
    Image.new("RGB", (2, 64)).save(tmp_path / "good.png")
    Image.new("RGB", (2, 65)).save(tmp_path / "strip.png")
    found = read(tmp_path)
    assert [example.path.name for example in found.examples] == ["good.png"]
    assert found.skipped[0].reason == "is a strip of 2 x 65 pixels: cut it"


def test_other_files_are_no_pictures(tmp_path: Path):
    paint(tmp_path / "a.png")
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "._a.png").write_bytes(b"x")  # what macOS leaves on foreign disks
    (tmp_path / "folder.png").mkdir()
    found = read(tmp_path)
    assert len(found.examples) == 1
    assert not found.skipped


def test_folders_without_pictures_are_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="There is no folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="There are no pictures in"):
        read(tmp_path)
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"None of the .* can be read\. Left out 1 damaged: a\.png"):
        read(tmp_path)
    with pytest.raises(BadInput, match="is a file: give the folder"):
        read(tmp_path / "a.png")


def test_a_size_the_base_cannot_halve_is_refused(tmp_path: Path):
    paint(tmp_path / "a.png")
    with pytest.raises(BadInput, match="size: 70 is not a multiple of 16"):
        read(tmp_path, size=70)


# Shapes


def test_buckets_are_multiples_of_the_step_about_as_large_as_the_square():
    found = bucket_sizes(1024, 64)
    assert (1024, 1024) in found
    assert set(found) == {(height, width) for width, height in found}
    for width, height in found:
        assert width % 64 == 0
        assert height % 64 == 0
        assert 0.85 * 1024**2 <= width * height <= 1024**2
        assert 0.5 <= width / height <= 2


@pytest.mark.parametrize(
    ("source", "bucket"),
    [
        ((500, 500), (64, 64)),
        ((640, 480), (80, 48)),
        ((480, 640), (48, 80)),
        ((300, 100), (80, 48)),
        ((64, 60), (64, 64)),
    ],
)
def test_a_picture_goes_to_the_bucket_of_the_nearest_ratio(
    tmp_path: Path, source: tuple[int, int], bucket: tuple[int, int]
):
    paint(tmp_path / "a.png", source)
    (example,) = read(tmp_path).examples
    assert (example.width, example.height) == source
    assert example.bucket == bucket
    assert read(tmp_path, buckets=False).examples[0].bucket == (64, 64)


def test_a_picture_on_its_side_is_stood_up(tmp_path: Path):
    picture = Image.new("RGB", (80, 40), "blue")
    picture.paste("red", (0, 0, 40, 40))  # left half red; turned clockwise, the upper half is
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif)
    (example,) = read(tmp_path).examples
    assert (example.width, example.height) == (40, 80)
    values, _ = cropped(example)
    upper, lower = values[:, :8].mean(dim=(1, 2)), values[:, -8:].mean(dim=(1, 2))
    assert upper.tolist() == pytest.approx([1, -1, -1], abs=0.02)
    assert lower.tolist() == pytest.approx([-1, -1, 1], abs=0.02)


def test_an_orientation_that_is_none_leaves_the_picture(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 40)).save(tmp_path / "a.jpg", exif=exif)
    number = bytes.fromhex("01120003000000010006")  # tag, type (short), count, value
    text = bytes.fromhex("01120002000000026C00")  # type: ASCII, "l"
    data = (tmp_path / "a.jpg").read_bytes()
    assert number in data
    (tmp_path / "a.jpg").write_bytes(data.replace(number, text))
    (example,) = read(tmp_path).examples
    assert (example.width, example.height) == (80, 40)
    assert cropped(example)[0].shape[1:] == example.bucket[::-1]


# Pixels


def gradient(path: Path, width: int, height: int) -> Example:
    """Red tells the column and green the row of the source, in steps of one."""
    values = np.zeros((height, width, 3), dtype=np.uint8)
    values[..., 0] = np.arange(width)
    values[..., 1] = np.arange(height)[:, None]
    Image.fromarray(values).save(path)
    return Example(path, "", width, height, (64, 64))


def columns(values: torch.Tensor) -> list[float]:
    """Red of the first and last column, in 0 .. 255."""
    return [round(float(values[0, 0, at]) * 127.5 + 127.5, 2) for at in (0, -1)]


def test_pixels_are_the_pictures_own_at_their_own_size(tmp_path: Path):
    example = gradient(tmp_path / "a.png", 64, 64)
    values, corner = cropped(example)
    assert values.shape == (3, 64, 64)
    assert values.dtype == torch.float32
    assert corner == (0, 0)
    expected = np.asarray(Image.open(example.path), dtype=np.float32).transpose(2, 0, 1)
    np.testing.assert_allclose(values.numpy(), expected / 127.5 - 1, atol=1e-6)


def test_the_middle_is_cut_and_its_corner_told(tmp_path: Path):
    values, corner = cropped(gradient(tmp_path / "a.png", 100, 64))
    assert corner == (0, 18)
    assert columns(values) == [18, 18 + 63]


def test_a_flip_mirrors_before_the_cut(tmp_path: Path):
    example = gradient(tmp_path / "a.png", 101, 64)
    values, corner = cropped(example, flip=True)
    assert corner == (0, 18)
    assert columns(values) == [100 - 18, 100 - 18 - 63]


def test_random_cuts_follow_the_generator_and_tell_their_corner(tmp_path: Path):
    example = gradient(tmp_path / "a.png", 100, 64)
    generator = torch.Generator().manual_seed(0)
    cuts = [cropped(example, generator=generator) for _ in range(30)]
    assert all(columns(values)[0] == left for values, (_, left) in cuts)
    lefts = [left for _, (_, left) in cuts]
    assert len(set(lefts)) > 10
    assert 0 <= min(lefts) < 10 < 26 < max(lefts) <= 36
    again = torch.Generator().manual_seed(0)
    assert [cropped(example, generator=again)[1][1] for _ in range(30)] == lefts


@pytest.mark.parametrize("source", [(10, 10), (33, 500), (500, 33), (1, 7), (65, 64)])
def test_any_source_fills_its_bucket(tmp_path: Path, source: tuple[int, int]):
    paint(tmp_path / "a.png", source, "white")
    (example,) = read(tmp_path).examples
    values, _ = cropped(example)
    assert values.shape == (3, example.bucket[1], example.bucket[0])
    assert torch.all(values == 1)


def test_a_picture_that_has_gone_since_is_named(tmp_path: Path):
    example = Example(tmp_path / "a.png", "", 64, 64, (64, 64))
    with pytest.raises(BadInput, match=r"There is no picture at .*a\.png"):
        cropped(example)
