"""Everything one picture needs, and the PNG that carries it.

A picture's file holds two texts: `parameters`, as A1111 writes it and most galleries read it, and
`studio`, a JSON object from which the same picture can be made again bit for bit.
"""

import dataclasses
import difflib
import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from PIL import Image, ImageOps, PngImagePlugin

from studio.errors import PICTURE_ERRORS, BadInput
from studio.files import atomic_write, file_sha256

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter
    from studio.bases.base import Base

__all__ = [
    "SCHEDULERS",
    "Shot",
    "method_name",
    "method_options",
    "open_picture",
    "parameters_text",
    "picture_sha256",
    "read_recipe",
    "recipe",
    "recipe_with",
    "save_picture",
]

SCHEDULERS = ("euler", "ddim", "dpmpp_2m", "unipc")
VERSION = 1  # of the JSON in the PNG
LARGEST_SIDE = 8192  # pixels
LARGEST_PICTURE = 64_000_000  # pixels of a picture to start from
T = TypeVar("T")
A1111_SAMPLERS = {"euler": "Euler", "ddim": "DDIM", "dpmpp_2m": "DPM++ 2M", "unipc": "UniPC"}


def _option(default: T, said: str) -> T:
    """A field with the words that the command line shows."""
    return dataclasses.field(default=default, metadata={"help": said})


@dataclass(frozen=True)
class Shot:
    """What one picture is made of.

    width, height: pixels; the base's own size when not given (with `init_image`, that picture's
    proportions at the base's own area). steps: denoising steps of a whole schedule, of which
    `denoise` is the part run when there is an `init_image`. guidance: 1 or less leaves out the
    unconditional pass. scheduler: one of SCHEDULERS, or None for the base's own. adapters: pairs
    of an adapter (or its file) and its strength. method: a method of compose/, None merges.
    """

    prompt: str
    base: str = "sketch"
    negative: str = _option("", "what the picture is not to show")
    seed: int = _option(0, "of the noise that the picture is made from")
    width: int | None = _option(None, "pixels; the base's own if not given")
    height: int | None = _option(None, "pixels; the base's own if not given")
    steps: int = _option(25, "denoising steps")
    guidance: float = _option(5.0, "how strictly the prompt is followed; 1 or less is fastest")
    scheduler: str | None = _option(
        None, "euler, ddim, dpmpp_2m or unipc; the base's own if not given"
    )
    adapters: tuple[tuple["Adapter | str | Path", float], ...] = ()
    method: object | None = None
    init_image: Image.Image | str | Path | None = None
    denoise: float = _option(0.6, "how much of the schedule is run over a picture to start from")

    def __post_init__(self) -> None:
        pairs = tuple((adapter, strength) for adapter, strength in self.adapters)
        object.__setattr__(self, "adapters", pairs)

    def check(self) -> None:
        """Raise BadInput naming the first field that no picture can be made with."""
        for field in ("prompt", "negative"):
            _check_text(field, getattr(self, field))
        _check_whole("seed", self.seed, 0, 2**63 - 1)
        _check_whole("steps", self.steps, 1, 1000)
        for field in ("width", "height"):
            if getattr(self, field) is not None:
                _check_whole(field, getattr(self, field), 8, LARGEST_SIDE)
        _check_number("guidance", self.guidance, 0.0, 1000.0)
        _check_number("denoise", self.denoise, 0.0, 1.0)
        if self.scheduler is not None and self.scheduler not in SCHEDULERS:
            raise BadInput(
                f"scheduler: there is no {self.scheduler!r}{_nearest(self.scheduler, SCHEDULERS)}; "
                f"choose from {', '.join(SCHEDULERS)}."
            )
        for _, strength in self.adapters:
            _check_number("adapters: a strength", strength, -100.0, 100.0)
        if self.init_image is not None and int(self.steps * self.denoise) < 1:
            raise BadInput(
                f"denoise: {self.denoise:g} of {self.steps} steps is less than one step; "
                "raise denoise or steps."
            )

    def settled(self, base: "Base") -> "Shot":
        """This shot, checked, with its adapters loaded and its size known.

        Settle once and vary the seed where many pictures are made from adapter files, so that the
        files are read once. Raises BadInput, also for an adapter that doesn't fit the base.
        """
        from studio.adapters.adapter import (  # PyTorch takes seconds
            Adapter,
            check_fits,
            load_adapter,
        )

        self.check()
        adapters = []
        for adapter, strength in self.adapters:
            if not isinstance(adapter, Adapter):
                adapter = load_adapter(adapter, base=base)
            check_fits(adapter, base)
            adapters.append((adapter, strength))
        return dataclasses.replace(self.sized(base), adapters=tuple(adapters))

    def sized(self, base: "Base") -> "Shot":
        """This shot with the size it has on this base; BadInput where that can't be had."""
        width, height = _size(self, base)
        return dataclasses.replace(self, width=width, height=height)


def method_name(method: object | None) -> str:
    """A method's name is that of its file in compose/; no method means `merge`."""
    return "merge" if method is None else type(method).__module__.rpartition(".")[2]


def method_options(method: object | None) -> dict[str, object]:
    """A method's options by name."""
    if method is None or not dataclasses.is_dataclass(method) or isinstance(method, type):
        return {}
    return dataclasses.asdict(method)


def open_picture(path: str | Path) -> Image.Image:
    """A picture as RGB, upright, over white; BadInput when it can't be read or is too large."""
    from studio.dataset.pictures import to_rgb  # PyTorch takes seconds

    try:
        with warnings.catch_warnings():
            # Pillow only warns up to twice its own limit; ours is lower and decides.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path)
        with opened as picture:
            if picture.width * picture.height > LARGEST_PICTURE:
                raise BadInput(
                    f"{path} is {picture.width} x {picture.height} pixels; "
                    f"at most {LARGEST_PICTURE:,} pixels are opened. Scale it down first."
                )
            return to_rgb(ImageOps.exif_transpose(picture))
    except FileNotFoundError:
        raise BadInput(f"There is no picture at {path}.") from None
    except Image.DecompressionBombError:
        raise BadInput(f"{path} has too many pixels to open. Scale it down first.") from None
    except PICTURE_ERRORS as error:
        raise BadInput(f"{path} can't be read as a picture: {error}.") from None


def picture_sha256(picture: Image.Image | str | Path) -> str:
    """Of a file's bytes, or of the size and RGB pixels of a picture in memory."""
    if isinstance(picture, Image.Image):
        rgb = picture.convert("RGB")
        return hashlib.sha256(f"{rgb.width}x{rgb.height} ".encode() + rgb.tobytes()).hexdigest()
    return file_sha256(picture)


def recipe(shot: Shot, base: "Base") -> dict[str, object]:
    """All that is needed to make the shot's picture again on this base, as JSON values."""
    shot = shot.settled(base)
    about_base = {
        "source": str(base.source),
        "name": base.name,
        "family": base.family,
        "fingerprint": base.fingerprint(),
        "dtype": base.precision,
        "device": base.device.type,
        "prediction": base.prediction_type,
    }
    told = recipe_with(shot, base=about_base, adapters=_adapter_entries(shot))
    return told | {"versions": _versions()}


def recipe_with(
    shot: Shot, *, base: Mapping[str, object], adapters: Sequence[Mapping[str, object]]
) -> dict[str, object]:
    """What a shot itself says of its recipe. base, adapters: what the recipe is to say of them."""
    start = shot.init_image
    return {
        "version": VERSION,
        "prompt": shot.prompt,
        "negative": shot.negative,
        "seed": shot.seed,
        "width": shot.width,
        "height": shot.height,
        "steps": shot.steps,
        "guidance": shot.guidance,
        "scheduler": shot.scheduler,
        "base": dict(base),
        "adapters": list(adapters),
        "method": {"name": method_name(shot.method), "options": method_options(shot.method)},
        "init_image": None
        if start is None
        else {
            "path": None if isinstance(start, Image.Image) else str(Path(start).resolve()),
            "sha256": picture_sha256(start),
        },
        "denoise": shot.denoise,
    }


def parameters_text(shot: Shot, base: "Base") -> str:
    """The text A1111 puts in a PNG under `parameters`; keys of ours follow those it knows."""
    shot = shot.settled(base)
    own = type(base.scheduler(None)).__name__
    sampler = own if shot.scheduler is None else A1111_SAMPLERS[shot.scheduler]
    pairs = {
        "Steps": f"{shot.steps}",
        "Sampler": sampler,
        "CFG scale": f"{shot.guidance:g}",
        "Seed": f"{shot.seed}",
        "Size": f"{shot.width}x{shot.height}",
        "Model hash": base.fingerprint()[:10],
        "Model": base.name,
    }
    if shot.init_image is not None:
        pairs["Denoising strength"] = f"{shot.denoise:g}"
    if shot.adapters:
        entries = _adapter_entries(shot)
        hashes = (f"{entry['name']}: {str(entry['sha256'])[:12]}" for entry in entries)
        strengths = (f"{entry['name']}: {entry['strength']:g}" for entry in entries)
        pairs["Lora hashes"] = ", ".join(hashes)
        pairs["Adapters"] = ", ".join(strengths)
        pairs["Method"] = method_name(shot.method)
    pairs["Version"] = f"Studio {_versions()['studio']}"
    lines = [shot.prompt]
    if shot.negative:
        lines.append(f"Negative prompt: {shot.negative}")
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in pairs.items()))
    return "\n".join(lines)


def save_picture(image: Image.Image, path: str | Path, shot: Shot, base: "Base") -> Path:
    """Write a PNG with its recipe: whole or not at all, folders made as needed.

    Raises BadInput when `path` doesn't end in .png or can't be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise BadInput(f"{path}: pictures are saved as .png, which keeps their recipe.")
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", parameters_text(shot, base))
    texts.add_text("studio", json.dumps(recipe(shot, base), allow_nan=False))
    with atomic_write(path) as file:
        image.save(file, "PNG", pnginfo=texts)
    return path


def read_recipe(path: str | Path) -> dict[str, object]:
    """The `studio` JSON of a PNG; BadInput when there is none or it is of another version."""
    try:
        with Image.open(path) as picture:
            text = picture.info.get("studio")
    except FileNotFoundError:
        raise BadInput(f"There is no picture at {path}.") from None
    except (*PICTURE_ERRORS, Image.DecompressionBombError) as error:
        raise BadInput(f"{path} can't be read as a picture: {error}.") from None
    if not isinstance(text, str):
        raise BadInput(f"{path} carries no recipe of Studio's; it can't be made again from.")
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        found = None
    if not isinstance(found, dict) or "version" not in found:
        raise BadInput(f"The recipe in {path} is damaged.")
    if found["version"] != VERSION:
        raise BadInput(
            f"The recipe in {path} is of version {found['version']}, this Studio reads {VERSION}."
        )
    return found


def _adapter_entries(shot: Shot) -> list[dict[str, object]]:
    entries = []
    for adapter, strength in shot.adapters:
        if isinstance(adapter, str | Path):
            raise TypeError(f"{adapter} isn't loaded: settle the shot first")
        path = None if adapter.path is None else str(Path(adapter.path).resolve())
        entry = {
            "name": adapter.name or (Path(path).stem if path else "adapter"),
            "path": path,
            "sha256": adapter.sha256,
            "strength": strength,
            "kind": adapter.kind,
            "triggers": list(adapter.triggers),
        }
        if adapter.half:
            entry["half"] = adapter.half
        entries.append(entry)
    return entries


def _size(shot: Shot, base: "Base") -> tuple[int, int]:
    """Width and height in pixels; BadInput where the base's latents can't have that size."""
    width, height = shot.width or base.size, shot.height or base.size
    start = shot.init_image
    picture = open_picture(start) if isinstance(start, str | Path) else start
    if picture is not None and shot.width is None and shot.height is None:
        shrink = base.size / math.sqrt(picture.width * picture.height)
        width, height = (
            max(base.step, round(side * shrink / base.step) * base.step) for side in picture.size
        )
    for field, side in (("width", width), ("height", height)):
        if side % base.latent_factor:
            raise BadInput(f"{field}: {side} is not a multiple of {base.latent_factor}.")
    return width, height


def _versions() -> dict[str, str]:
    found = {}
    for package in ("studio", "torch", "diffusers", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout
            found[package] = "unknown"
    return found


def _quoted(value: str) -> str:
    """A1111's rule: JSON quotes around a value that holds a separator."""
    return json.dumps(value, ensure_ascii=False) if set(value) & set(",:\n") else value


def _nearest(word: str, words: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, words, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _check_text(field: str, text: object) -> None:
    if not isinstance(text, str):
        raise BadInput(f"{field}: {text!r} is not a text.")
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise BadInput(f"{field}: it holds characters that no file can keep; retype it.")


def _check_whole(field: str, number: object, least: int, most: int) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        raise BadInput(f"{field}: {number!r} is not a whole number from {least} to {most}.")


def _check_number(field: str, number: object, least: float, most: float) -> None:
    if (
        not isinstance(number, int | float)
        or isinstance(number, bool)
        or not math.isfinite(number)
        or not least <= number <= most
    ):
        raise BadInput(f"{field}: {number!r} is not a number from {least:g} to {most:g}.")
