"""Everything one picture needs, as it is asked for.

`studio.requests.resolved_shot` loads what a shot names, `studio.requests.shot_recipe` turns a shot
into a dictionary, and `compose.shot_from_dict` reads that back.
"""

import dataclasses
import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from PIL import Image

from studio.errors import BadInput

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter

__all__ = ["SCHEDULERS", "Shot", "method_name", "method_options"]

SCHEDULERS = ("euler", "ddim", "dpmpp_2m", "unipc")
LARGEST_SIDE = 8192  # pixels
T = TypeVar("T")


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
    negative: str = _option("", "negative prompt: what the picture must not show")
    seed: int = _option(0, "random seed of the starting noise")
    width: int | None = _option(None, "pixels; default: the base's own size")
    height: int | None = _option(None, "pixels; default: the base's own size")
    steps: int = _option(25, "denoising steps")
    guidance: float = _option(
        5.0, "guidance scale (CFG): how closely to follow the prompt; 1 or less is fastest"
    )
    scheduler: str | None = _option(
        None, "noise scheduler: euler, ddim, dpmpp_2m or unipc; default: the base's own"
    )
    adapters: tuple[tuple["Adapter | str | Path", float], ...] = ()
    method: object | None = None
    init_image: Image.Image | str | Path | None = None
    denoise: float = _option(0.6, "with an init image: share of the schedule to run")

    def __post_init__(self) -> None:
        pairs = tuple((adapter, strength) for adapter, strength in self.adapters)
        object.__setattr__(self, "adapters", pairs)

    @property
    def steps_run(self) -> int:
        """The denoising steps that are made: with `init_image`, the last part of the schedule."""
        return self.steps if self.init_image is None else int(self.steps * self.denoise)

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
        if self.steps_run < 1:
            raise BadInput(
                f"denoise: {self.denoise:g} of {self.steps} steps is less than one step; "
                "raise denoise or steps."
            )


def method_name(method: object | None) -> str:
    """A method's name is that of its file in compose/; no method means `merge`."""
    return "merge" if method is None else type(method).__module__.rpartition(".")[2]


def method_options(method: object | None) -> dict[str, object]:
    """A method's options by name."""
    if method is None or not dataclasses.is_dataclass(method) or isinstance(method, type):
        return {}
    return dataclasses.asdict(method)


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
