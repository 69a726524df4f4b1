"""The options of the loop, the same for every kind, and their text form."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from math import cos, inf, isfinite, pi
from typing import TYPE_CHECKING, Literal, TypeVar

from studio.errors import BadInput
from trainers.engine.kind import Published

if TYPE_CHECKING:
    from studio.bases.base import Base
    from studio.bases.info import BaseInfo
    from trainers.engine.kind import Kind

__all__ = ["Recipe", "draft", "recipe_for", "to_toml", "with_options"]

UNMASKED_WEIGHT = 0.1  # OneTrainer's
PRIOR_COUNT, PRIOR_WEIGHT = 100, 1.0  # those of diffusers' DreamBooth script
NOT_NEGATIVE = (
    "new_tokens",
    "warmup",
    "weight_decay",
    "clip",
    "min_snr",
    "noise_offset",
    "input_perturbation",
    "sample_every",
    "save_every",
    "keep",
)
SMALL = 128  # pixels: a base of this size or less is a sketch, and learns fast
# Learning rates suit AdamW unless somebody says otherwise. Lion steps by the sign of its momentum
# and wants a third to a tenth (section 5 of its paper); the sketch base learns as fast with a half.
RATES = {"adamw": 1.0, "adamw8bit": 1.0, "lion": 1 / 3, "prodigy": 1.0}
PRODIGY = 1.0

Scalar = str | int | float | bool
Table = Mapping[str, Scalar | tuple[str, ...] | list[str] | list[float] | None]
T = TypeVar("T")


def _option(default: T, said: str) -> T:
    """A dataclass field with the sentence that the command line and the web form show."""
    return field(default=default, metadata={"help": said})


@dataclass(frozen=True)
class Recipe:
    """How to train, whatever is trained. Raises BadInput that names a field out of range."""

    steps: int = _option(500, "optimiser steps")
    batch: int = _option(1, "pictures that go through the base together")
    accumulation: int = _option(1, "batches whose gradients make one optimiser step")
    lr: float = _option(1e-4, "learning rate at its highest")
    schedule: Literal["constant", "cosine", "linear"] = _option(
        "constant", "the learning rate's course after the warmup; cosine and linear end at zero"
    )
    warmup: int = _option(0, "steps over which the learning rate rises from nothing")
    text_encoders: bool = _option(False, "train the text encoders too, with changes of this kind")
    text_lr: float = _option(5e-6, "learning rate of the text encoders, on the same course")
    optimizer: Literal["adamw", "adamw8bit", "prodigy", "lion"] = _option(
        "adamw", "AdamW, its state in a byte a number, Prodigy (finds lr by itself: 1), or Lion"
    )
    weight_decay: float = _option(0.01, "decoupled weight decay")
    lora_plus: float = _option(
        1.0, "ratio by which matrices that start at zero learn faster; 1 for off, LoRA+ takes 16"
    )
    ema: float = _option(
        0.0, "decay of the steps' average that is saved and drawn, such as 0.99; 0 for off"
    )
    new_tokens: int = _option(
        0, "vectors to learn for each new word, those of the trigger in <angle brackets>; 0: none"
    )
    token: str | None = _option(None, "the new word, where the trigger has it without brackets")
    token_init: str | None = _option(None, "words that a new one starts as; drawn if not given")
    token_lr: float = _option(5e-4, "learning rate of the new words, on the same course")
    clip: float = _option(1.0, "longest gradient allowed; 0 for no limit")
    min_snr: float = _option(5.0, "min-SNR gamma: how much easy timesteps may weigh; 0 for off")
    noise_offset: float = _option(
        0.0, "how much a noise of one colour is added, for dark and bright pictures; 0 for off"
    )
    input_perturbation: float = _option(
        0.0, "noise added to the input alone, against exposure bias, such as 0.1; 0 for off"
    )
    caption_dropout: float = _option(0.0, "share of the pictures trained without their caption")
    flip: bool = _option(False, "mirror pictures at random")
    crops: int = _option(1, "random crops kept of each picture; 1 is the centre crop")
    size: int | None = _option(None, "side of the pictures in pixels; the base's own if not given")
    buckets: bool = _option(True, "keep aspect ratios; off: every picture is cropped square")
    checkpointing: bool = _option(False, "recompute activations: less memory, slower steps")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = _option(
        "auto", "precision of the base's computation; auto is that of its weights"
    )
    seed: int = _option(0, "two runs of one seed on a CPU give the same file, byte for byte")
    sample_every: int = _option(0, "steps between sample pictures; 0 for none")
    sample_prompts: tuple[str, ...] = _option((), "prompts of the sample pictures")
    save_every: int = _option(200, "steps between checkpoints; 0 for none but when stopped")
    keep: int = _option(0, "how many checkpoints stay, the newest; 0 for all")
    tensorboard: bool = _option(
        False, "write losses, rates and samples for TensorBoard into the run's folder"
    )
    cache: Literal["memory", "disk"] = _option(
        "memory", "where encoded pictures and captions are kept"
    )
    masked: Literal["alpha", "files"] | None = _option(
        None, "learn only what masks show: from the alpha channel, or from files"
    )
    unmasked_weight: float = _option(
        UNMASKED_WEIGHT, "with masked: how much a pixel outside counts, beside one inside"
    )
    prior_class: str | None = _option(
        None, 'the class of the subject, such as "a robot", of which the base is to keep its idea'
    )
    prior_count: int = _option(
        PRIOR_COUNT,
        "with prior_class: pictures of the class; the base draws those that are missing",
    )
    prior_weight: float = _option(
        PRIOR_WEIGHT, "with class pictures: how much their loss counts, beside that of the pictures"
    )

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(entry.default, int | float) and not isinstance(value, int | float):
                raise BadInput(f"{entry.name} is a number; it was given as {value!r}")
            whole = type(entry.default) is int
            if whole and type(value) is not int:
                raise BadInput(f"{entry.name} is a whole number; it was given as {value!r}")
            if isinstance(value, float) and value == inf:
                raise BadInput(f"{entry.name} is a finite number; it was given as {value!r}")
        for name in ("steps", "batch", "accumulation", "crops"):
            _require(getattr(self, name) >= 1, name, self, "is at least 1")
        for name in ("token", "token_init"):
            value = getattr(self, name)
            _require(value is None or bool(value.strip()), name, self, "is not empty")
            _require(value is None or self.new_tokens > 0, name, self, "comes with new_tokens")
        for name in NOT_NEGATIVE:
            _require(getattr(self, name) >= 0, name, self, "is not negative")
        for name in ("lr", "text_lr", "token_lr", "lora_plus"):
            value = getattr(self, name)
            _require(isfinite(value) and value > 0, name, self, "is above zero")
        _require(0 <= self.ema < 1, "ema", self, "lies between 0 and 1")
        _require(0 <= self.caption_dropout <= 1, "caption_dropout", self, "lies between 0 and 1")
        _require(self.warmup <= self.steps, "warmup", self, f"is at most steps ({self.steps})")
        _require(0 <= self.seed < 2**63, "seed", self, "lies between 0 and 2^63 - 1")
        _require(self.size is None or self.size > 0, "size", self, "is above zero")
        weighed = 0 <= self.unmasked_weight <= 1
        _require(weighed, "unmasked_weight", self, "lies between 0 and 1")
        words = self.prior_class is None or bool(self.prior_class.strip())
        _require(words, "prior_class", self, "names what the subject is one of")
        _require(self.prior_count >= 0, "prior_count", self, "is not negative")
        weighed = isfinite(self.prior_weight) and self.prior_weight > 0
        _require(weighed, "prior_weight", self, "is above zero")
        if self.masked is None and self.unmasked_weight != UNMASKED_WEIGHT:
            raise BadInput("unmasked_weight is for learning with masks: give masked too")
        if self.prior_class is None and self.prior_count != PRIOR_COUNT:
            raise BadInput("prior_count is of pictures that are drawn: give prior_class too")
        for name, allowed in _CHOICES.items():
            said = ", ".join(filter(None, allowed))
            _require(getattr(self, name) in allowed, name, self, f"is one of {said}")
        if self.optimizer == "prodigy":
            _require_one_rate(self)

    def remarks(self) -> tuple[str, ...]:
        """What may not have been meant, a sentence each."""
        if self.optimizer == "prodigy" and self.lr != PRODIGY:
            return (
                "Prodigy finds the learning rate itself and multiplies it by lr, here "
                f"{self.lr:g}: its authors leave lr at 1.",
            )
        return ()

    def rate(self, step: int, *, course: range | None = None) -> float:
        """The learning rate of the step that has `step` steps before it.

        course: the steps from warmup to end, where these are not all steps of the training.
        """
        course = course or range(self.steps)
        step -= course.start
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, len(course) - self.warmup)
        return self.lr * _COURSES[self.schedule](done)


# The share of the learning rate left, `done` running from 0 to 1 after the warmup.
_COURSES = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: (1 + cos(pi * done)) / 2,
    "linear": lambda done: 1 - done,
}
_CHOICES = {
    "schedule": tuple(_COURSES),
    "optimizer": tuple(RATES),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "cache": ("memory", "disk"),
    "masked": (None, "alpha", "files"),
}


def _require(holds: bool, name: str, recipe: Recipe, rule: str) -> None:
    if not holds:
        raise BadInput(f"{name} {rule}; it was given as {getattr(recipe, name)!r}")


def _require_one_rate(recipe: Recipe) -> None:
    """BadInput where some numbers are to learn faster than others."""
    said = "and prodigy finds one rate for all: leave it out, or choose another optimizer"
    if recipe.lora_plus != 1:
        raise BadInput(f"lora_plus has some matrices learn faster, {said}")
    if recipe.text_encoders and recipe.text_lr != recipe.lr:
        raise BadInput(f"text_lr is not lr, {said}")
    if recipe.new_tokens and recipe.token_lr != recipe.lr:
        raise BadInput(f"token_lr is not lr, {said}")


def recipe_for(base: "Base | BaseInfo", kind: "Kind | None" = None) -> Recipe:
    """Where a training of this kind on this base starts from when nothing is asked for.

    On sketch the text encoders learn as fast as the UNet: at the rate for full size they bring
    nothing, at this one a robot was right in some ten of a hundred pictures more. The rate of new
    words made no difference that 30 pictures show, from 5e-4 to 1e-2 (tests/benchmarks/kinds.py).
    """
    if base.size <= SMALL:
        return Recipe(steps=500, batch=8, lr=2e-3, text_lr=2e-3, schedule="cosine")
    return with_options(Recipe(), kind.published(base) if isinstance(kind, Published) else {})


def draft(options: Mapping[str, object]) -> Recipe:
    """A recipe of these options while no base is known; BadInput as from `with_options`.

    Where steps is not among them the base and the kind decide on it: a warmup has no limit yet.
    """
    return with_options(Recipe(steps=10**9), options)


def with_options(recipe: Recipe, options: Mapping[str, object]) -> Recipe:
    """The recipe with some fields changed; BadInput names the nearest field for an unknown one."""
    known = [entry.name for entry in fields(recipe)]
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise BadInput(f"a training has no option {name!r}; did you mean {near!r}?")
    changes = dict(options)
    if changes.get("optimizer") in RATES:
        changes = _rates(recipe, str(changes["optimizer"]), changes) | changes
    if "sample_prompts" in changes and isinstance(changes["sample_prompts"], list):
        changes["sample_prompts"] = tuple(changes["sample_prompts"])
    return replace(recipe, **changes)  # pyright: ignore[reportArgumentType]


def _rates(recipe: Recipe, optimizer: str, given: Mapping[str, object]) -> dict[str, object]:
    """The recipe's learning rates as they suit another optimiser; given: what was asked for."""
    if optimizer == recipe.optimizer:
        return {}
    if optimizer == "prodigy":
        one = given.get("lr", PRODIGY)
        return {"lr": one, "text_lr": one, "token_lr": one}
    if recipe.optimizer == "prodigy":
        encoders = given.get("text_encoders", recipe.text_encoders)
        for name in ("lr", "text_lr") if encoders else ("lr",):
            if name not in given:
                one = f"{name} is prodigy's, {recipe.lr:g}"
                raise BadInput(f"the recipe's {one}: give {name} for {optimizer}")
        ratio = RATES[optimizer]
        return {"text_lr": Recipe.text_lr * ratio, "token_lr": Recipe.token_lr * ratio}
    ratio = RATES[optimizer] / RATES[recipe.optimizer]
    return {name: getattr(recipe, name) * ratio for name in ("lr", "text_lr", "token_lr")}


def to_toml(tables: Mapping[str, Table]) -> str:
    """TOML text; the table named "" comes first, without a header. None is left out."""
    lines = []
    for name, table in tables.items():
        lines += ["", f"[{name}]"] if name else []
        lines += [f"{key} = {_value(value)}" for key, value in table.items() if value is not None]
    return "\n".join(lines) + "\n"


def _value(value: Scalar | tuple[str, ...] | list[str] | list[float]) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        # A JSON string is a TOML basic string, except that TOML wants DEL escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return "[" + ", ".join(map(_value, value)) + "]"
