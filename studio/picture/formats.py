"""Recognise the formats of picture files by their first bytes, and load plug-ins for some."""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec

from PIL import Image, features

# The formats that are read, by Pillow's names, with their suffixes. Pillow reads more, but some by
# running other programs (EPS), and some that it can't tell from other files (TGA).
FORMATS = {
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "HEIF": (".heic", ".heif", ".hif"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "JXL": (".jxl",),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "QOI": (".qoi",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
# A file with another suffix is a picture if it starts like one.
ENDINGS = frozenset(ending for endings in FORMATS.values() for ending in endings)


@dataclass(frozen=True)
class PlugIn:
    """A package that adds a format to Pillow when its `module` is imported."""

    kind: str
    format: str
    package: str
    module: str

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install {self.package}"


# How pictures start. BMP and PPM are left out, since many texts start like them.
STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*", b"qoif")
STARTS += (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
HEIC = PlugIn("HEIC", "HEIF", "pillow-heif", "pillow_heif.HeifImagePlugin")
AVIF = PlugIn("AVIF", "AVIF", "pillow-avif-plugin", "pillow_avif")
JPEG_XL = PlugIn("JPEG XL", "JXL", "pillow-jxl-plugin", "pillow_jxl")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
BRANDS = dict.fromkeys((*HEIC_BRANDS, b"mif1", b"msf1"), HEIC) | {b"avif": AVIF, b"avis": AVIF}


def starts_like_picture(head: bytes) -> bool:
    """Whether a file is a picture. head: its first 32 bytes."""
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return webp or head.startswith(STARTS) or _plug_in(head) is not None


def load_plug_in(head: bytes) -> PlugIn | None:
    """Load the plug-in that a picture needs, if any. Returns it only where it is not installed.

    head: the first 32 bytes of the file.
    """
    plug_in = _plug_in(head)
    if plug_in is None or _is_built_in(plug_in.format):
        return None
    if find_spec(plug_in.module.partition(".")[0]) is None:
        return plug_in
    import_module(plug_in.module)
    readable_formats.cache_clear()
    return None


@cache
def readable_formats() -> tuple[str, ...]:
    """The formats that can be read on this machine, by Pillow's names."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _is_built_in(name: str) -> bool:
    if name == "AVIF":  # Pillow lists AVIF even where it was built without it
        return bool(features.check("avif"))
    return name in readable_formats()


def _plug_in(head: bytes) -> PlugIn | None:
    """The plug-in for a format that not every Pillow reads; None for other formats."""
    if head[4:8] == b"ftyp":
        # "mif1" and "msf1" stand for any codec; the brands after them say which.
        brands = [head[at : at + 4] for at in (8, *range(16, len(head), 4))]
        own = [BRANDS[brand] for brand in brands if brand in BRANDS]
        return AVIF if AVIF in own else next(iter(own), None)
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        return JPEG_XL
    return None
