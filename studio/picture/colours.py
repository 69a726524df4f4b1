"""Convert pictures of any mode and colour profile to sRGB of eight bits, over one colour."""

from itertools import product

from PIL import Image, ImageCms, ImageColor

from studio.errors import BadInput

# A profile's colour space, and the mode that its pictures must have.
PROFILED = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
AT_ONCE = 2**22  # pixels that are converted at a time
LEVELS = (0, 51, 102, 153, 204, 255)  # of each channel, to compare two conversions


class WidePixels(ValueError):
    """Pixels of 32 bits, which have no agreed white."""


def to_rgb(picture: Image.Image, *, background: str = "white") -> Image.Image:
    """A decoded picture as sRGB.

    Its colour profile is applied. Transparency lies over `background`. Sixteen bits become eight.
    Raises WidePixels for pixels of 32 bits.
    """
    if picture.width * picture.height <= AT_ONCE:
        return _to_rgb(picture, background)
    # In strips, since each conversion takes four bytes a pixel, and a picture may need four.
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
    """Red, green and blue of a colour's name or hexadecimal number. BadInput for other texts."""
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
    import numpy as np  # late: the command line does without it

    values = np.asarray(picture)
    if values.size and not 0 <= values.min() <= values.max() <= 65535:
        raise WidePixels("its pixels have 32 bits; save it with 8 or 16 bits")
    grey = Image.fromarray((values / 257).round().astype(np.uint8))
    grey.info = dict(picture.info)
    grey.info.pop("transparency", None)  # a level of sixteen bits
    return grey


def _to_srgb(picture: Image.Image, profile: object) -> Image.Image:
    """The picture in sRGB, by its profile if that is sound and fits, otherwise by Pillow."""
    if isinstance(profile, bytes) and profile:
        try:
            return _profiled(picture, profile)
        except (OSError, ValueError):
            pass  # a damaged profile, or one of another colour space, is ignored
    return picture.convert("RGB")


def _profiled(picture: Image.Image, data: bytes) -> Image.Image:
    """The picture in sRGB by its profile.

    Raises OSError for a damaged profile, ValueError for one of another colour space.
    """
    profile = ImageCms.core.profile_frombytes(data)
    mode = PROFILED.get(profile.xcolor_space, "")
    fits = picture.mode == mode or {picture.mode, mode} in ({"P", "RGB"}, {"1", "L"})
    if not fits:
        raise ValueError(f"a profile of {mode or 'no'} colours for a picture of {picture.mode}")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    transform = ImageCms.ImageCmsTransform(ImageCms.ImageCmsProfile(profile), srgb, mode, "RGB")
    if _keeps_colours(transform, mode):
        return picture.convert("RGB")
    return transform.apply(picture.convert(mode))


def _keeps_colours(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether no colour changes by more than 1 of 255: the profile is sRGB by another name."""
    if mode == "CMYK":
        return False
    sample = Image.new("RGB", (len(LEVELS) ** 3, 1))
    sample.putdata(list(product(LEVELS, repeat=3)))
    sample = sample.convert(mode)
    pairs = zip(sample.convert("RGB").tobytes(), transform.apply(sample).tobytes(), strict=True)
    return all(abs(before - after) <= 1 for before, after in pairs)
