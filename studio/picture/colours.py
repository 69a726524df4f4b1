"""Any mode and colour profile to sRGB of eight bits, over one colour."""

from itertools import product

from PIL import Image, ImageCms, ImageColor

from studio.errors import BadInput

# The mode that a picture must have for a profile of this colour space.
PROFILED = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
AT_ONCE = 2**22  # pixels that are converted
LEVELS = (0, 51, 102, 153, 204, 255)


class WidePixels(ValueError):
    """Pixels of 32 bits, which have no agreed white."""


def to_rgb(picture: Image.Image, *, background: str = "white") -> Image.Image:
    """A decoded picture as sRGB.

    Its colour profile is converted. Transparency lies over `background`. Of sixteen bits eight are
    kept. Raises WidePixels for pixels of 32 bits.
    """
    if picture.width * picture.height <= AT_ONCE:
        return _to_rgb(picture, background)
    # Each conversion takes four bytes a pixel, and some pictures need four of them.
    whole = Image.new("RGB", picture.size)
    rows = max(1, AT_ONCE // picture.width)
    for top in range(0, picture.height, rows):
        strip = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
        converted = _to_rgb(strip, background)
        whole.paste(converted, (0, top))
        whole.info = converted.info
    return whole


def _to_rgb(picture: Image.Image, background: str) -> Image.Image:
    picture = _as_eight_bits(picture)
    if not picture.has_transparency_data:
        return _to_srgb(picture, picture.info.get("icc_profile"))
    layer = picture.convert("RGBA")
    grey = picture.mode in ("LA", "La", "L", "1")
    colours = _to_srgb(layer.convert("L" if grey else "RGB"), picture.info.get("icc_profile"))
    colours.putalpha(layer.getchannel("A"))
    behind = Image.new("RGBA", layer.size, parse_background(background))
    return Image.alpha_composite(behind, colours).convert("RGB")


def parse_background(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour's name or hexadecimal number. BadInput for another text."""
    try:
        return ImageColor.getrgb(colour)[:3]
    except ValueError:
        raise BadInput(
            f"There is no colour {colour!r}: give a name such as white, or a number as #808080."
        ) from None


def _as_eight_bits(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise WidePixels("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if not picture.mode.startswith("I"):
        return picture
    import numpy as np  # which the command line does without

    values = np.asarray(picture)
    if values.size and not 0 <= values.min() <= values.max() <= 65535:
        raise WidePixels("its pixels have 32 bits; save it with 8 or 16 bits")
    grey = Image.fromarray((values / 257).round().astype(np.uint8))
    grey.info = dict(picture.info)
    grey.info.pop("transparency", None)  # of sixteen bits
    return grey


def _to_srgb(picture: Image.Image, profile: object) -> Image.Image:
    """The colours that a profile means; without one that fits, those that Pillow converts to."""
    if isinstance(profile, bytes) and profile:
        try:
            return _profiled(picture, profile)
        except (OSError, ValueError):
            pass  # damaged, or of another colour space: as if there were none
    return picture.convert("RGB")


def _profiled(picture: Image.Image, data: bytes) -> Image.Image:
    """Raises OSError for a damaged profile, ValueError for one of other colours."""
    profile = ImageCms.core.profile_frombytes(data)
    mode = PROFILED.get(profile.xcolor_space, "")
    fits = picture.mode == mode or {picture.mode, mode} in ({"P", "RGB"}, {"1", "L"})
    if not fits:
        raise ValueError(f"a profile of {mode or 'no'} colours for a picture of {picture.mode}")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    change = ImageCms.ImageCmsTransform(ImageCms.ImageCmsProfile(profile), srgb, mode, "RGB")
    if _keeps_colours(change, mode):
        return picture.convert("RGB")
    return change.apply(picture.convert(mode))


def _keeps_colours(change: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether it moves no colour by more than one step of 255: sRGB under another name."""
    if mode == "CMYK":
        return False
    sample = Image.new("RGB", (len(LEVELS) ** 3, 1))
    sample.putdata(list(product(LEVELS, repeat=3)))
    sample = sample.convert(mode)
    pairs = zip(sample.convert("RGB").tobytes(), change.apply(sample).tobytes(), strict=True)
    return all(abs(before - after) <= 1 for before, after in pairs)
