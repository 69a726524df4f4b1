"""A shot becomes a picture, and a picture's recipe becomes a shot again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, cast, overload

import torch
from PIL import Image
from torch import Tensor

from compose.engine.denoise import Done, denoise
from compose.engine.method import method_named
from studio.adapters.adapter import Adapter, load_adapter
from studio.errors import BadInput
from studio.files import file_sha256
from studio.requests.shot import Shot, open_picture, parameters_text, picture_sha256, recipe

if TYPE_CHECKING:
    from studio.bases.base import Base

__all__ = ["develop", "like", "render"]

T = TypeVar("T")


@overload
def render(base: "Base", shot: Shot, *, output: Literal["picture"] = "picture") -> Image.Image: ...


@overload
def render(base: "Base", shot: Shot, *, output: Literal["latents"]) -> Tensor: ...


def render(base: "Base", shot: Shot, *, output: str = "picture") -> Image.Image | Tensor:
    """Make a shot's picture on a base.

    output: "picture" for an RGB picture whose `info` holds its recipe as
    `studio.requests.shot.save_picture` writes it into a PNG; "latents" for what the VAE would
    decode, [1, 4, h, w] float32.

    Raises BadInput for a shot that can't be made on this base.
    """
    if output not in ("picture", "latents"):
        raise BadInput(f"output: {output!r} is neither picture nor latents.")
    shot = shot.settled(base)
    latents = None
    for progress in denoise(base, shot):
        if isinstance(progress, Done):
            latents = progress.latents
    assert latents is not None
    return develop(base, shot, latents) if output == "picture" else latents


def develop(base: "Base", shot: Shot, latents: Tensor) -> Image.Image:
    """The picture of a shot's finished latents [1, 4, h, w], its recipe in `info`."""
    if not torch.isfinite(latents).all():
        raise BadInput(
            "The picture holds numbers that are none: lower the strengths of the adapters or the "
            f"guidance, or open the base in fp32 or bf16 (it is in {base.dtype})."
        )
    pixels = base.decode(latents)[0].movedim(0, -1)
    picture = Image.fromarray((pixels * 255).round().to(torch.uint8).cpu().numpy())
    picture.info["parameters"] = parameters_text(shot, base)
    picture.info["studio"] = json.dumps(recipe(shot, base))
    return picture


def like(
    made: Mapping[str, object],
    base: "Base",
    *,
    init_image: Image.Image | str | Path | None = None,
) -> Shot:
    """The shot that a recipe (see `studio.requests.shot.read_recipe`) was written for.

    init_image: the picture that one started from, where the recipe has no path to it.

    Raises BadInput when the base, an adapter or the picture it started from is absent or is not
    the very one that was used, and when the recipe is damaged.
    """
    _check_base(_value(made, "base", dict), base)
    adapters = [_adapter(entry, base) for entry in _value(made, "adapters", list)]
    method = _value(made, "method", dict)
    start = made.get("init_image")
    shot = Shot(
        prompt=_value(made, "prompt", str),
        base=str(base.source),
        negative=_value(made, "negative", str),
        seed=_value(made, "seed", int),
        width=_value(made, "width", int),
        height=_value(made, "height", int),
        steps=_value(made, "steps", int),
        guidance=_value(made, "guidance", float),
        scheduler=None if made.get("scheduler") is None else _value(made, "scheduler", str),
        adapters=tuple(adapters),
        method=_method(_value(method, "name", str), _value(method, "options", dict)),
        init_image=None if start is None else _start(_value(made, "init_image", dict), init_image),
        denoise=_value(made, "denoise", float),
    )
    shot.check()
    return shot


def _method(name: str, options: Mapping[str, object]) -> object | None:
    """A method as the shot had it: none given is kept as `merge` without any options."""
    return None if name == "merge" and not options else method_named(name, options)


def _check_base(entry: Mapping[str, object], base: "Base") -> None:
    made_on = _value(entry, "fingerprint", str)
    if made_on != base.fingerprint():
        raise BadInput(
            f"The picture was made on {_value(entry, 'source', str)} ({made_on[:10]}), "
            f"but this base is {base.source} ({base.fingerprint()[:10]})."
        )
    if (then := entry.get("prediction", base.prediction_type)) != base.prediction_type:
        raise BadInput(
            f"The picture was made with {base.source} predicting {then}: open it so (prediction)."
        )


def _adapter(entry: object, base: "Base") -> tuple[Adapter, float]:
    if not isinstance(entry, dict):
        raise BadInput("The recipe is damaged: an adapter of it is no JSON object.")
    name, sha256 = _value(entry, "name", str), _value(entry, "sha256", str)
    if entry.get("path") is None:
        raise BadInput(f"The picture was made with the adapter {name}, which was never saved.")
    path = Path(_value(entry, "path", str))
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
    whole_or_half = f"{path}:{_value(entry, 'half', str)}" if "half" in entry else path
    return load_adapter(whole_or_half, base=base), _value(entry, "strength", float)


def _start(
    entry: Mapping[str, object], given: Image.Image | str | Path | None
) -> Image.Image | str | Path:
    sha256 = _value(entry, "sha256", str)
    start = given if given is not None else entry.get("path")
    if not isinstance(start, Image.Image | str | Path):
        raise BadInput(
            "The picture was started from one that had no file; give that with init_image."
        )
    if not isinstance(start, Image.Image):
        open_picture(start)
    if picture_sha256(start) != sha256:
        raise BadInput(
            f"{start} isn't the picture that this one was started from (sha256 {sha256[:12]})."
        )
    return start


def _value(entry: Mapping[str, object], key: str, kind: type[T]) -> T:
    found = entry.get(key)
    if kind is float and isinstance(found, int):
        found = float(found)
    if not isinstance(found, kind) or isinstance(found, bool):
        raise BadInput(f"The recipe is damaged: its {key} is {found!r}.")
    return cast(T, found)
