"""Pictures of every kind, compared with the colours and the way up that they were made with."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from studio.errors import BadInput
from studio.picture import BadPicture, load_picture, opened_picture, picture_size
from studio.picture.formats import starts_like_picture

S = 64
RED = (200, 30, 60)
WHITE, GREEN = (255, 255, 255), (0, 255, 0)


def solid(mode: str = "RGB", colour: object = RED) -> Image.Image:
    return Image.new(mode, (S, S), colour)  # pyright: ignore[reportArgumentType]


def mean(picture: Image.Image) -> list[int]:
    assert (picture.mode, picture.size) == ("RGB", (S, S))
    return np.asarray(picture).mean(axis=(0, 1)).round().astype(int).tolist()


def assert_is(path: Path, colour: tuple[int, int, int], *, background: str = "white") -> None:
    """Within 2 of 255: that is what JPEG and AVIF lose."""
    assert np.abs(np.subtract(mean(load_picture(path, background=background)), colour)).max() <= 2
    assert picture_size(path, decode=True) == (S, S)


def chunk(name: bytes, body: bytes, checksum: int | None = None) -> bytes:
    crc = zlib.crc32(name + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)


def png(*chunks: bytes, picture: Image.Image | None = None) -> bytes:
    """A PNG with these chunks behind its header."""
    file = io.BytesIO()
    (picture or solid()).save(file, "PNG")
    data = file.getvalue()
    return data[:33] + b"".join(chunks) + data[33:]


def png16(kind: int, values: tuple[int, ...]) -> bytes:
    """A PNG of sixteen bits a channel, which Pillow does not write. kind: 2 RGB, 6 RGBA."""
    row = b"\0" + struct.pack(f">{len(values)}H", *values) * S
    header = struct.pack(">IIBBBBB", S, S, 16, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row * S)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


# Modes


MODES = {
    "palette": (solid().convert("P", palette=Image.Palette.ADAPTIVE), RED),
    "grey": (solid("L", 100), (100, 100, 100)),
    "one bit": (solid("1", 1), WHITE),
    "clear": (solid("RGBA", (*RED, 0)), WHITE),
    "half clear": (solid("RGBA", (*RED, 51)), (244, 210, 216)),  # a fifth of red, the rest white
    "clear grey": (solid("LA", (100, 0)), WHITE),
    "sixteen bits of grey": (Image.fromarray(np.full((S, S), 40000, np.uint16)), (156, 156, 156)),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb_over_white(tmp_path: Path, name: str):
    picture, colour = MODES[name]
    picture.save(tmp_path / "a.png")
    assert_is(tmp_path / "a.png", colour)


def test_a_clear_colour_of_a_palette_is_white(tmp_path: Path):
    picture = solid().convert("P", palette=Image.Palette.ADAPTIVE)
    picture.save(tmp_path / "a.png", transparency=picture.getpixel((0, 0)))
    assert_is(tmp_path / "a.png", WHITE)


def test_transparency_lies_over_the_colour_asked_for(tmp_path: Path):
    solid("RGBA", (*RED, 51)).save(tmp_path / "a.png")
    assert_is(tmp_path / "a.png", (40, 6, 12), background="black")
    assert_is(tmp_path / "a.png", (40, 6, 216), background="#0000ff")
    with pytest.raises(BadInput, match="There is no colour 'whitish': give a name such as white"):
        load_picture(tmp_path / "a.png", background="whitish")


def test_sixteen_bits_a_channel_become_eight(tmp_path: Path):
    (tmp_path / "rgb.png").write_bytes(png16(2, (51400, 7710, 15420)))
    (tmp_path / "rgba.png").write_bytes(png16(6, (51400, 7710, 15420, 0)))
    assert_is(tmp_path / "rgb.png", RED)
    assert_is(tmp_path / "rgba.png", WHITE)


@pytest.mark.parametrize(("mode", "said"), [("F", "floating-point numbers"), ("I", "have 32 bits")])
def test_pixels_without_an_agreed_white_are_refused(tmp_path: Path, mode: str, said: str):
    solid(mode, 100_000).save(tmp_path / "a.tiff")
    for read in (load_picture, lambda path: picture_size(path, decode=True)):
        words = rf"its pixels .*{said}.*; save it with 8 or 16 bits"
        with pytest.raises(BadPicture, match=words) as bad:
            read(tmp_path / "a.tiff")
        assert bad.value.kind == "32-bit"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "it is damaged"),
        (b"\0\0\0\x18ftypavif" + bytes(20), "it is damaged"),
        (b"hello", "its format is not known"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, data: bytes, said: str):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(BadPicture, match=rf"a\.png can't be read as a picture: {said}"):
        load_picture(tmp_path / "a.png")
    with pytest.raises(BadPicture, match=said), opened_picture(io.BytesIO(data), name="a.png"):
        pass


def test_cmyk_is_converted(tmp_path: Path):
    solid("CMYK", (0, 200, 150, 30)).save(tmp_path / "a.jpg", quality=98)
    assert_is(tmp_path / "a.jpg", (225, 49, 93))  # (255 - c) (255 - k) / 255


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif", "a.mpo"])
def test_of_an_animation_and_of_pages_the_first_is_read(tmp_path: Path, name: str):
    pages = {"save_all": True, "append_images": [solid(colour=GREEN)]}
    solid().save(tmp_path / name, **pages, lossless=True, quality=98)
    assert_is(tmp_path / name, RED)


# Colour profiles


def matrix_profile(primaries: tuple[tuple[float, float, float], ...], gamma: float) -> bytes:
    """An ICC profile of three primaries, as D50 XYZ, and one gamma (ICC.1, sections 7 to 10)."""

    def xyz(values: tuple[float, float, float]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(one * 65536)) for one in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    white = (0.9642, 1.0, 0.8249)
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(78),
        b"cprt": b"text\0\0\0\0x\0\0\0",
        b"wtpt": xyz(white),
    }
    for tag, primary in zip((b"r", b"g", b"b"), primaries, strict=True):
        tags |= {tag + b"XYZ": xyz(primary), tag + b"TRC": curve}
    table, data, at = b"", b"", 132 + 12 * len(tags)
    for tag, body in tags.items():
        padded = body + bytes(-len(body) % 4)
        table += struct.pack(">4sII", tag, at + len(data), len(padded))
        data += padded
    rest = struct.pack(">I", len(tags)) + table + data
    head = struct.pack(">I4sI", 128 + len(rest), b"lcms", 0x02400000) + b"mntrRGB XYZ "
    head += bytes(12) + b"acsp" + bytes(28)
    head += b"".join(struct.pack(">i", round(one * 65536)) for one in white) + bytes(48)
    return head + rest


P3 = ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841))
SRGB_PRIMARIES = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))


def converted(colour: tuple[int, int, int], primaries: np.ndarray, gamma: float) -> np.ndarray:
    """By the formula: through XYZ into sRGB (IEC 61966-2-1), cut to what sRGB can show."""
    xyz = (np.array(colour) / 255) ** gamma @ primaries
    linear = np.clip(xyz @ np.linalg.inv(np.array(SRGB_PRIMARIES)), 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (255 * curved).round()


@pytest.mark.parametrize("colour", [RED, (10, 200, 90), (128, 128, 128)])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_display_p3_becomes_srgb(tmp_path: Path, colour: tuple[int, int, int], suffix: str):
    path, profile = tmp_path / f"a.{suffix}", matrix_profile(P3, 2.2)
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}
    solid(colour=colour).save(path, icc_profile=profile, **options.get(suffix, {}))
    expected = converted(colour, np.array(P3), 2.2)
    assert np.abs(mean(load_picture(path)) - expected).max() <= 2


def test_the_colours_of_clear_pictures_are_converted_too(tmp_path: Path):
    profile = matrix_profile(P3, 2.2)
    solid("RGBA", (*RED, 255)).save(tmp_path / "a.png", icc_profile=profile)
    solid().quantize().save(tmp_path / "b.png", icc_profile=profile)
    expected = converted(RED, np.array(P3), 2.2)
    for name in ("a.png", "b.png"):
        assert np.abs(mean(load_picture(tmp_path / name)) - expected).max() <= 2


def test_srgb_keeps_its_pixels_bit_for_bit(tmp_path: Path):
    values = np.random.default_rng(0).integers(0, 256, (S, S, 3), dtype=np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(values).save(tmp_path / "a.png", icc_profile=profile)
    assert np.array_equal(np.asarray(load_picture(tmp_path / "a.png")), values)


def test_a_profile_of_another_kind_of_colours_is_passed_over(tmp_path: Path):
    solid("CMYK", (0, 200, 150, 30)).save(
        tmp_path / "a.jpg", quality=98, icc_profile=matrix_profile(P3, 2.2)
    )
    solid("L", 100).save(tmp_path / "b.png", icc_profile=matrix_profile(P3, 2.2))
    assert_is(tmp_path / "a.jpg", (225, 49, 93))
    assert_is(tmp_path / "b.png", (100, 100, 100))


# Which way up


def lying(orientation: int) -> Image.Image:
    """As a camera stores it: upright it is 48 x 96, red, green, white and black by quarters."""
    upright = Image.new("RGB", (48, 96), "black")
    for at, colour in (((0, 0), "red"), ((24, 0), "lime"), ((0, 48), "white")):
        upright.paste(Image.new("RGB", (24, 48), colour), at)
    # The inverse of each turn of the EXIF standard (tag 0x0112).
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # of Image.Transpose
    if orientation not in inverse:
        return upright
    return upright.transpose(Image.Transpose(inverse[orientation]))


def quarters(picture: Image.Image) -> list[str]:
    names = {(1, 0, 0): "red", (0, 1, 0): "lime", (1, 1, 1): "white", (0, 0, 0): "black"}
    found = []
    for at in ((12, 24), (36, 24), (12, 72), (36, 72)):
        pixel = picture.getpixel(at)
        assert isinstance(pixel, tuple)
        found.append(names[pixel[0] // 128, pixel[1] // 128, pixel[2] // 128])
    return found


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_picture_is_stood_up_once(tmp_path: Path, suffix: str, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    lying(orientation).save(path, exif=exif)
    assert picture_size(path) == picture_size(path, decode=True) == (48, 96)
    picture = load_picture(path)
    assert picture.size == (48, 96)
    assert quarters(picture) == ["red", "lime", "white", "black"]


# Damaged notes, and damaged pictures


def jpeg(exif: bytes) -> bytes:
    file = io.BytesIO()
    solid().save(file, "JPEG", quality=98)
    data, note = file.getvalue(), b"Exif\0\0" + exif
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(note) + 2) + note + data[2:]


def webp(exif: bytes) -> bytes:
    file = io.BytesIO()
    solid().save(file, "WEBP", lossless=True, exif=exif)
    return file.getvalue()


LONG = zlib.compress(b"a" * 3_000_000)
NOTES = {
    "exif twice.jpg": jpeg(b"Exif\0\0II*\0\x08\0\0\0\0\0"),
    "exif of garbage.jpg": jpeg(b"garbage"),
    "exif cut.jpg": jpeg(b"MM\0*\0\0\0\x08\0\x05\x01\x12"),
    "exif of garbage.webp": webp(b"garbage"),
    "exif of garbage.png": png(chunk(b"eXIf", b"garbage")),
    "long text.png": png(chunk(b"tEXt", b"prompt\0" + b"a" * 3_000_000)),
    "long packed text.png": png(chunk(b"zTXt", b"workflow\0\0" + LONG)),
    "long international text.png": png(chunk(b"iTXt", b"workflow\0\1\0\0\0" + LONG)),
    "text of an unknown packing.png": png(chunk(b"zTXt", b"workflow\0\7" + LONG)),
    "wrong checksum.png": png(chunk(b"tEXt", b"prompt\0a", checksum=1)),
    "long profile.png": png(chunk(b"iCCP", b"icc\0\0" + LONG)),
    "profile of garbage.png": png(chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"garbage"))),
}


@pytest.mark.parametrize("name", NOTES)
def test_a_damaged_note_costs_the_note_and_not_the_picture(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(NOTES[name])
    assert_is(tmp_path / name, RED)


def test_a_broken_note_leaves_the_others_and_the_profile(tmp_path: Path):
    with io.BytesIO() as file:
        solid().save(file, "PNG", icc_profile=matrix_profile(P3, 2.2))
        data = file.getvalue()
    notes = chunk(b"zTXt", b"workflow\0\0" + LONG) + chunk(b"tEXt", b"studio\0{}")
    (tmp_path / "a.png").write_bytes(data[:33] + notes + data[33:])
    with opened_picture(tmp_path / "a.png") as picture:
        assert picture.info["studio"] == "{}"
    expected = converted(RED, np.array(P3), 2.2)
    assert np.abs(mean(load_picture(tmp_path / "a.png")) - expected).max() <= 2


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.tif", "a.avif", "a.qoi"])
def test_damaged_pictures_are_refused_in_one_sentence(tmp_path: Path, name: str):
    noise = np.random.default_rng(0).integers(0, 256, (S, S, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for part in (whole[: len(whole) // 2], whole[:40], b""):
        (tmp_path / name).write_bytes(part)
        with pytest.raises(
            BadPicture, match=r"a\.\w+ can't be read as a picture: [^\n]+\.$"
        ) as bad:
            load_picture(tmp_path / name)
        assert bad.value.kind == "damaged"


@pytest.mark.parametrize("start", [b"%!PS-Adobe-3.0 EPSF", b"<svg onload=alert(1)>", b"8BPS\0\1"])
def test_other_files_are_no_pictures(tmp_path: Path, start: bytes):
    """EPS among them, which Pillow would hand to Ghostscript."""
    (tmp_path / "a.png").write_bytes(start + bytes(100))
    with pytest.raises(BadPicture, match="its format is not known"):
        load_picture(tmp_path / "a.png")
    assert not starts_like_picture(start)


# Plug-ins


def test_heic_is_read_where_its_plug_in_is_installed(tmp_path: Path):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(solid()).save(tmp_path / "a.heic", quality=100)
    code = (
        "from studio.picture import load_picture; "  # which loads the plug-in by itself
        f"print(load_picture({str(tmp_path / 'a.heic')!r}).getpixel((9, 9)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert np.abs(np.subtract(eval(done.stdout), RED)).max() <= 3


def box(brand: bytes, *others: bytes) -> bytes:
    """The first box of an ISO base media file, which HEIC and AVIF are."""
    body = b"ftyp" + brand + bytes(4) + b"".join(others)
    return struct.pack(">I", len(body) + 4) + body + bytes(200)


@pytest.mark.parametrize(
    ("data", "kind", "package"),
    [
        (box(b"heic"), "HEIC", "pillow-heif"),
        (box(b"mif1", b"mif1", b"heic"), "HEIC", "pillow-heif"),
        (b"\xff\x0a" + bytes(50), "JPEG XL", "pillow-jxl-plugin"),
    ],
)
def test_a_missing_plug_in_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, kind: str, package: str
):
    """Whatever the file is called."""
    monkeypatch.setattr("studio.picture.formats.readable_formats", lambda: ("PNG", "JPEG"))
    monkeypatch.setattr("studio.picture.formats.find_spec", lambda name: None)
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(
        BadPicture, match=f"is a {kind} picture: run `pip install {package}`"
    ) as bad:
        load_picture(tmp_path / "a.jpg")
    assert bad.value.kind == kind
    assert starts_like_picture(data[:32])
