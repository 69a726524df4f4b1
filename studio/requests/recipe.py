"""The options of the training loop, which every kind of adapter shares."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import cos, pi
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from studio.errors import BadInput
from studio.requests.prompt_syntax import PromptSyntax
from studio.requests.validation import NotBlank, check, check_fields, option

UNMASKED_WEIGHT = 0.1  # OneTrainer's
PRIOR_COUNT, PRIOR_WEIGHT = 100, 1.0  # those of diffusers' DreamBooth script
# Default learning rates are for AdamW; these factors make them fit another optimizer. Lion steps by
# the sign of its momentum and wants a third to a tenth (section 5 of its paper); the sketch base
# learns as fast with a half.
RATES = {"adamw": 1.0, "adamw8bit": 1.0, "lion": 1 / 3, "prodigy": 1.0}
PRODIGY = 1.0  # the lr that Prodigy's authors recommend
UNKNOWN_STEPS = 10**9

AtLeastOne = Annotated[int, Ge(1)]
Count = Annotated[int, Ge(0)]
Amount = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True)
class Recipe:
    """The options of a training. Raises BadInput that names every field out of range."""

    steps: Annotated[int, Ge(1), Le(UNKNOWN_STEPS)] = option(
        500, "how long to train; each step learns from one batch"
    )
    batch: AtLeastOne = option(1, "pictures in a batch")
    accumulation: AtLeastOne = option(
        1, "batches added up for each step: like a larger batch, without its memory"
    )
    lr: Positive = option(1e-4, "learning rate: how much each step changes the adapter")
    schedule: Literal["constant", "cosine", "linear"] = option(
        "constant",
        "the learning rate's course after the warmup; cosine and linear let it fall to 0",
    )
    warmup: Count = option(0, "steps in which the learning rate rises from 0")
    text_encoders: bool = option(False, "train the text encoders too")
    text_lr: Positive = option(5e-6, "learning rate of the text encoders; the schedule is the same")
    optimizer: Literal["adamw", "adamw8bit", "prodigy", "lion"] = option(
        "adamw",
        "AdamW suits most; in 8 bits it needs less memory; Prodigy finds the learning rate itself",
    )
    weight_decay: Amount = option(
        0.01, "how strongly weights are pulled towards 0 (decoupled weight decay)"
    )
    lora_plus: Positive = option(
        1.0,
        "LoRA+: how many times faster the matrices that start at 0 learn; 16 is usual, off at 1",
    )
    ema: Annotated[float, Ge(0), Lt(1)] = option(
        0.0,
        "save a running average of the weights instead of the last ones; 0.99 is usual, off at 0",
    )
    new_tokens: Count = option(
        0, "vectors to learn for each trigger word in <angle brackets>; none at 0"
    )
    token: NotBlank | None = option(None, "the new word, if the trigger has none in brackets")
    token_init: NotBlank | None = option(
        None, "known words that the new word starts as; random if none is given"
    )
    token_lr: Positive = option(5e-4, "learning rate of the new words; the schedule is the same")
    clip: Amount = option(
        1.0, "gradient clipping: how far a single batch can pull at most; no limit at 0"
    )
    min_snr: Amount = option(
        5.0, "min-SNR gamma: nearly clean pictures count less; 5 is usual, off at 0"
    )
    noise_offset: Amount = option(
        0.0, "added noise of one colour, so that dark and bright pictures are learned; off at 0"
    )
    input_perturbation: Amount = option(
        0.0, "extra noise on the UNet's input, such as 0.1; off at 0"
    )
    caption_dropout: Share = option(
        0.0, "share of the pictures that are learned without their caption"
    )
    # Not "a1111" as for prompts: taggers write brackets that are no weights: miku_(vocaloid).
    caption_syntax: PromptSyntax = option(
        "plain",
        "how captions are read: as plain text, with weights (a1111), or cut after 75 tokens",
    )
    clip_skip: AtLeastOne | None = option(
        None,
        "layer of the text encoders to use, from the end; 1 is the last; default: the base's",
    )
    flip: bool = option(False, "mirror pictures at random")
    crops: AtLeastOne = option(1, "random crops of each picture; 1 takes its middle")
    size: Annotated[int, Gt(0)] | None = option(
        None, "side of the pictures in pixels; default: the base's"
    )
    buckets: bool = option(
        True, "keep the shape of each picture (aspect ratio buckets); off: crop all to squares"
    )
    background: NotBlank = option(
        "white", "colour behind transparent parts of pictures, such as black or #808080"
    )
    checkpointing: bool = option(False, "gradient checkpointing: less memory, but slower")
    compile: bool = option(
        False, "compile the UNet first: a slow start, then faster steps; undone if they are not"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "number format to compute in; auto takes that of the base"
    )
    seed: Annotated[int, Ge(0), Lt(2**63)] = option(
        0, "start of the random numbers; on a CPU the same seed gives the same file"
    )
    sample_every: Count = option(0, "steps from one sample to the next; at 0 only at the end")
    sample_prompts: tuple[str, ...] = option((), "prompts of the samples; default: the trigger")
    save_every: Count = option(200, "steps from one checkpoint to the next; at 0 only when stopped")
    keep: Count = option(0, "how many of the newest checkpoints to keep; all at 0")
    tensorboard: bool = option(False, "write losses, learning rates and samples for TensorBoard")
    cache: Literal["memory", "disk"] = option(
        "memory", "where prepared pictures and captions are kept"
    )
    masked: Literal["alpha", "files"] | None = option(
        None, "learn only what masks show: each picture's transparency (alpha), or mask files"
    )
    unmasked_weight: Share = option(
        UNMASKED_WEIGHT, "with masks: how much the rest of the picture counts"
    )
    prior_class: NotBlank | None = option(
        None,
        'class of the subject, such as "a robot", so that the base does not forget others of it',
    )
    prior_count: Count = option(
        PRIOR_COUNT, "number of class pictures to use; missing ones are drawn"
    )
    prior_weight: Positive = option(PRIOR_WEIGHT, "how much class pictures count")

    def __post_init__(self) -> None:
        check(self)
        if self.warmup > self.steps:
            raise BadInput(f"warmup must be at most steps ({self.steps}); it is {self.warmup}")
        for name in ("token", "token_init"):
            if getattr(self, name) is not None and not self.new_tokens:
                raise BadInput(f"{name} needs new_tokens: give the number of vectors to learn too")
        if self.masked is None and self.unmasked_weight != UNMASKED_WEIGHT:
            raise BadInput("unmasked_weight is for learning with masks: give masked too")
        if self.prior_class is None and self.prior_count != PRIOR_COUNT:
            raise BadInput("prior_count is for class pictures that are drawn: give prior_class too")
        if self.optimizer == "prodigy":
            _check_prodigy(self)
        if self.background != "white":
            from studio.picture.colours import parse_background  # Pillow with it

            parse_background(self.background)

    @property
    def trains_text(self) -> bool:
        """Whether captions have to be encoded at every step."""
        return self.text_encoders or self.new_tokens > 0

    def remarks(self) -> tuple[str, ...]:
        """Sentences about options that are allowed, but that the user may not have meant."""
        if self.optimizer == "prodigy" and self.lr != PRODIGY:
            return (
                "Prodigy finds the learning rate itself and multiplies it by lr, here "
                f"{self.lr:g}: its authors leave lr at 1.",
            )
        return ()

    def rate(self, step: int, *, course: range | None = None) -> float:
        """The learning rate of a step, counted from 0.

        course: the steps over which the schedule runs, warmup included; default: all steps.
        """
        course = course or range(self.steps)
        step -= course.start
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, len(course) - self.warmup)
        return self.lr * SCHEDULES[self.schedule](done)


# The factor of the learning rate; `done` runs from 0 to 1 after the warmup.
SCHEDULES = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: (1 + cos(pi * done)) / 2,
    "linear": lambda done: 1 - done,
}


def _check_prodigy(recipe: Recipe) -> None:
    """Raise BadInput where some parameters would have another learning rate than the rest."""
    advice = "and prodigy finds one rate for all: leave it out, or choose another optimizer"
    if recipe.lora_plus != 1:
        raise BadInput(f"lora_plus gives some matrices a higher learning rate, {advice}")
    if recipe.text_encoders and recipe.text_lr != recipe.lr:
        raise BadInput(f"text_lr is not lr, {advice}")
    if recipe.new_tokens and recipe.token_lr != recipe.lr:
        raise BadInput(f"token_lr is not lr, {advice}")


def draft(options: Mapping[str, object]) -> Recipe:
    """A recipe with these options, before the base is known. Raises BadInput as `with_options`.

    Where `steps` is not given, the base and the kind set it later, so the warmup has no limit yet.
    """
    return with_options(Recipe(steps=UNKNOWN_STEPS), options)


def with_options(recipe: Recipe, options: Mapping[str, object]) -> Recipe:
    """The recipe with some fields changed.

    Where the optimizer changes, learning rates that are not in `options` are scaled to fit it.
    Raises BadInput for an unknown field, naming the nearest, and for a value out of range.
    """
    changes = check_fields(Recipe, options)
    return replace(recipe, **_rates(recipe, changes) | changes)  # pyright: ignore


def merge_options(
    options: Mapping[str, object], changes: Mapping[str, object]
) -> dict[str, object]:
    """The options with changes. A new optimizer scales the learning rates among the options.

    Raises BadInput as `with_options` does.
    """
    rates = _rates(draft(options), changes)
    return {**options, **{name: rates[name] for name in rates if name in options}, **changes}


def _rates(recipe: Recipe, changes: Mapping[str, object]) -> dict[str, object]:
    """The recipe's learning rates scaled for the optimizer in `changes`; empty if it stays."""
    optimizer = str(changes.get("optimizer", recipe.optimizer))
    if optimizer == recipe.optimizer:
        return {}
    if optimizer == "prodigy":
        lr = changes.get("lr", PRODIGY)
        return {"lr": lr, "text_lr": lr, "token_lr": lr}
    if recipe.optimizer == "prodigy":
        encoders = changes.get("text_encoders", recipe.text_encoders)
        for name in ("lr", "text_lr") if encoders else ("lr",):
            if name not in changes:
                raise BadInput(
                    f"the recipe's {name} is prodigy's, {recipe.lr:g}: give {name} for {optimizer}"
                )
        ratio = RATES[optimizer]
        return {"text_lr": Recipe.text_lr * ratio, "token_lr": Recipe.token_lr * ratio}
    ratio = RATES[optimizer] / RATES[recipe.optimizer]
    return {name: getattr(recipe, name) * ratio for name in ("lr", "text_lr", "token_lr")}
