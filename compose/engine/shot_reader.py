"""Reads a shot from its recipe; `studio.requests.shot_recipe` writes recipes.

Shots in the queues of older versions are read as well. There a base is its source alone, adapters
are pairs of a path and a strength, a start picture is its path alone, and no method is null. A shot
without `syntax` was written before weights in prompts and long prompts were read; its syntax is
"cut".
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from compose.engine.method import method_named, options_before
from studio.errors import BadInput
from studio.files import file_sha256
from studio.requests.picture_file import open_picture, picture_sha256
from studio.requests.regions import DATA, read_region
from studio.requests.shot import Shot
from studio.requests.validation import in_words

if TYPE_CHECKING:
    from studio.bases.base import Base

# Every recipe has these fields; fields that came later may be missing.
FIRST = ("negative", "seed", "width", "height", "steps", "scheduler", "guidance", "denoise")
FRACTIONS = ("guidance", "denoise", "second_pass", "second_denoise", "avoid_strength")
PICTURES = {"init_image": "started from", "mask": "drawn in"}


def shot_from_dict(written: Mapping[str, object]) -> Shot:
    """The shot that a recipe describes, with its adapters and pictures as paths of files.

    A missing field has its default. Raises BadInput for a value that no shot can have, and for an
    adapter or a picture that had no file.
    """
    plain: dict[str, Any] = {"prompt": None, "syntax": "cut"}
    plain |= {one.name: written[one.name] for one in fields(Shot) if one.name in written}
    plain |= {name: _fraction(plain[name]) for name in FRACTIONS if name in written}
    structured: dict[str, Any] = {
        "base": _base(written.get("base", "sketch")),
        "adapters": tuple(_adapter(one) for one in _list(written.get("adapters", ()))),
        "method": _method(written.get("method")),
        "init_image": _picture("init_image", written.get("init_image")),
        "mask": _picture("mask", written.get("mask")),
    }
    shot = Shot(**plain | structured)
    shot.check()
    check_masks_inside(shot)
    return shot


def check_masks_inside(shot: Shot) -> None:
    """Raise BadInput where a region's mask is a path: a recipe from anybody could name any file."""
    for region in map(read_region, shot.regions):
        if region.mask is not None and not region.mask.startswith(DATA):
            raise BadInput(
                f"regions: {in_words(region.mask)} is neither a box nor a mask; a box is written "
                "as 0,0,0.5,1"
            )


def like(
    recipe: Mapping[str, object],
    base: "Base",
    *,
    init_image: Image.Image | str | Path | None = None,
    mask: Image.Image | str | Path | None = None,
) -> Shot:
    """The shot that a picture was made from, given its recipe.

    recipe: the result of `studio.requests.picture_file.read_recipe`. init_image, mask: the start
    picture and the mask, where the recipe has no path to them.

    Raises BadInput where the base, an adapter, the start picture or the mask is missing or is not
    the one that was used, and where the recipe is damaged.
    """
    if missing := [name for name in FIRST if name not in recipe]:
        raise BadInput(f"The recipe is damaged: it has no {missing[0]}.")
    given = {"init_image": init_image, "mask": mask}
    used = {name: recipe[name] for name in PICTURES if recipe.get(name) is not None}
    shot = shot_from_dict({**recipe, **dict.fromkeys(PICTURES)})
    _check_base(_mapping("base", recipe.get("base")), base)
    for entry in _list(recipe.get("adapters")):
        _check_adapter(_mapping("adapters", entry))
    pictures = {
        name: _same_picture(name, given[name] or _picture(name, entry), entry)
        for name, entry in used.items()
    }
    return replace(shot, base=str(base.source), **pictures)


def _base(entry: object) -> str:
    return entry if isinstance(entry, str) else _text(_mapping("base", entry), "source")


def _adapter(entry: object) -> tuple[str, float]:
    if isinstance(entry, list | tuple) and len(entry) == 2:
        return str(entry[0]), entry[1]
    adapter = _mapping("adapters", entry)
    if adapter.get("path") is None:
        name = adapter.get("name", "of no name")
        raise BadInput(f"The picture was made with the adapter {name}, which was never saved.")
    path, half = _text(adapter, "path"), adapter.get("half")
    strength = adapter.get("strength", 1.0)
    return f"{path}:{half}" if half else path, strength  # pyright: ignore[reportReturnType]


def _method(entry: object) -> object | None:
    """The method of a recipe; None for the plain sum, also where that was written as `merge`.

    A missing option has the value that stands for the time before the option existed.
    """
    if entry is None:
        return None
    method = _mapping("method", entry)
    name, written = _text(method, "name"), method.get("options", {})
    if written is None:
        return None
    options = _mapping("method", written)
    if name == "merge" and not options:
        return None
    return method_named(name, options_before(name) | dict(options))


def _picture(field: str, entry: object) -> str | None:
    if entry is None or isinstance(entry, str):
        return entry
    picture = _mapping(field, entry)
    if picture.get("path") is None:
        raise BadInput(
            f"The picture was {PICTURES[field]} one that had no file; give that with {field}."
        )
    return _text(picture, "path")


def _check_base(entry: Mapping[str, object], base: "Base") -> None:
    fingerprint = _text(entry, "fingerprint")
    if fingerprint != base.fingerprint():
        raise BadInput(
            f"The picture was made on {_text(entry, 'source')} ({fingerprint[:10]}), "
            f"but this base is {base.source} ({base.fingerprint()[:10]})."
        )
    if (vae := entry.get("vae", "")) != base.vae_source:
        then = f"the VAE {vae}" if vae else "the VAE of the base itself"
        raise BadInput(f"The picture was made with {then}: open the base so (vae).")
    if (then := entry.get("prediction", base.prediction_type)) != base.prediction_type:
        raise BadInput(
            f"The picture was made with {base.source} predicting {then}: open it so (prediction)."
        )


def _check_adapter(entry: Mapping[str, object]) -> None:
    path, sha256 = Path(_text(entry, "path")), _text(entry, "sha256")
    if not path.is_file():
        raise BadInput(
            f"The picture was made with {path} (sha256 {sha256[:12]}), which isn't there: "
            "put that file back."
        )
    now = file_sha256(path)
    if now != sha256:
        raise BadInput(
            f"{path} has changed since the picture was made with it: sha256 {sha256[:12]} then, "
            f"{now[:12]} now."
        )


def _same_picture(
    field: str, picture: Image.Image | str | Path | None, entry: object
) -> Image.Image | str | Path:
    """The picture. Raises BadInput where it isn't the one that the recipe's entry names."""
    assert picture is not None  # the entry has a path, or one was given
    sha256 = _text(_mapping(field, entry), "sha256")
    if not isinstance(picture, Image.Image):
        open_picture(picture)
    if picture_sha256(picture) != sha256:
        raise BadInput(
            f"{picture} isn't the picture that this one was {PICTURES[field]} "
            f"(sha256 {sha256[:12]})."
        )
    return picture


def _fraction(number: object) -> object:
    return float(number) if isinstance(number, int) and not isinstance(number, bool) else number


def _list(entries: object) -> list[object] | tuple[object, ...]:
    if not isinstance(entries, list | tuple):
        raise BadInput(f"adapters: {entries!r} is not a list.")
    return entries


def _mapping(field: str, entry: object) -> Mapping[str, object]:
    if not isinstance(entry, Mapping):
        raise BadInput(f"{field}: {entry!r} is no JSON object.")
    return entry


def _text(entry: Mapping[str, object], key: str) -> str:
    found = entry.get(key)
    if not isinstance(found, str):
        raise BadInput(f"{key}: {found!r} is not a text.")
    return found
