"""Draw the designs of assets/art anew from the artists' files, which come from the npm registry.

assets/art/designs.txt has one design on each line: a name, `=`, and the emoji to draw for it. `*`
before a name marks things to wear, `+` things to hold. Needs the extra "sketch".
"""

import base64
import hashlib
import io
import json
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from studio.assets import asset
from studio.errors import BadInput
from studio.files import atomic_write
from studio.sketch.art import TILE

REGISTRY = "https://registry.npmjs.org"
# The package of each set, its version and its archive's SHA-512, in the order of the sheet.
PACKAGES = {
    "3d": (
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    ),
    "fluent-emoji-flat": (
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    ),
    "fluent-emoji": (
        "@iconify-json/fluent-emoji",
        "1.2.7",
        "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
    ),
    "noto": (
        "@iconify-json/noto",
        "1.2.9",
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    ),
    "noto-v1": (
        "@iconify-json/noto-v1",
        "1.2.5",
        "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
    ),
    "fxemoji": (
        "@iconify-json/fxemoji",
        "1.2.2",
        "UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
    ),
}
ROLES = {"*": "worn", "+": "held"}
DRAWN = 256  # pixels at which a design is drawn before it is made smaller
VISIBLE = 10  # alpha above which a pixel belongs to a design
QUALITY = 90  # of WebP: half as many bytes as without loss, and no visible difference


def fetch_art(downloads: Path) -> None:
    """Fetch the packages into `downloads` and write sprites.webp and sprites.npz to assets/art.

    Raises BadInput if a package is not the one that the base was made from.
    """
    designs = list(_designs({name: _package(downloads, *PACKAGES[name]) for name in PACKAGES}))
    with atomic_write(asset("art") / "sprites.npz") as file:
        columns = {
            column: np.array([design[index] for design in designs])
            for index, column in enumerate(("names", "sets", "roles"))
        }
        np.savez_compressed(file, allow_pickle=False, **columns)
    with atomic_write(asset("art") / "sprites.webp") as file:
        _sheet([design[3] for design in designs]).save(file, "webp", quality=QUALITY, exact=True)


def _package(downloads: Path, name: str, version: str, sha512: str) -> tarfile.TarFile:
    """The archive of an npm package, downloaded if it is not there yet."""
    file = f"{name.split('/')[-1]}-{version}.tgz"
    path = downloads / file
    if not path.exists():
        downloads.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(f"{REGISTRY}/{name}/-/{file}") as response:
            data = response.read()
        if base64.b64encode(hashlib.sha512(data).digest()).decode() != sha512:
            raise BadInput(f"{name} {version} of {REGISTRY} is not the package that we know.")
        with atomic_write(path) as partial:
            partial.write(data)
    return tarfile.open(path)


def _designs(packages: dict[str, tarfile.TarFile]) -> Iterator[tuple[str, str, str, Image.Image]]:
    """Name, set, role and picture of each design that a set has."""
    icons = {name: _json(packages[name], "icons.json") for name in packages if name != "3d"}
    codes: dict[str, str] = {}  # code points by emoji name: they are the names of 3D designs
    for name in ("fluent-emoji-flat", "noto"):
        for code, emoji in _json(packages[name], "chars.json").items():
            codes.setdefault(emoji, code)
    renders = set(packages["3d"].getnames())
    for line in (asset("art") / "designs.txt").read_text(encoding="utf-8").splitlines():
        name, emoji = line.split("=")
        role, name = ROLES.get(name[0], "subject"), name.lstrip("*+")
        for owner in PACKAGES:
            if owner == "3d":
                member = f"package/assets/{codes.get(emoji)}.webp"
                if member in renders:
                    picture = Image.open(io.BytesIO(_read(packages["3d"], member)))
                    yield name, owner, role, _tile(picture.convert("RGBA"))
            elif emoji in icons[owner]["icons"]:
                yield name, owner, role, _tile(_draw(icons[owner], emoji))


def _draw(icons: dict, emoji: str) -> Image.Image:
    icon = icons["icons"][emoji]
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' viewBox="0 0 {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=DRAWN, height=DRAWN)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def _tile(picture: Image.Image) -> Image.Image:
    """A picture cropped to its visible part, scaled to 112 px, at the middle of the bottom edge."""
    visible = picture.getchannel("A").point([255 * (alpha > VISIBLE) for alpha in range(256)])
    pixels = np.asarray(picture.crop(visible.getbbox())).astype(np.float32)
    pixels[..., :3] *= pixels[..., 3:] / 255
    scale = TILE / max(pixels.shape[:2])
    size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
    # Premultiplied channels are scaled one by one: Pillow would multiply RGBA by alpha again.
    channels = [
        Image.fromarray(np.round(pixels[..., channel]).astype(np.uint8)).resize(
            size, Image.Resampling.BOX
        )
        for channel in range(4)
    ]
    tile = Image.new("RGBA", (TILE, TILE))
    tile.paste(Image.merge("RGBA", channels), ((TILE - size[0]) // 2, TILE - size[1]))
    return tile


def _sheet(tiles: list[Image.Image]) -> Image.Image:
    across = int(np.ceil(len(tiles) ** 0.5))
    sheet = Image.new("RGBA", (across * TILE, across * TILE))
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % across * TILE, place // across * TILE))
    return sheet


def _json(package: tarfile.TarFile, file: str) -> dict:
    return json.loads(_read(package, f"package/{file}"))


def _read(package: tarfile.TarFile, member: str) -> bytes:
    file = package.extractfile(member)
    assert file is not None, member
    return file.read()
