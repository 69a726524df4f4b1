"""How to train, whatever is trained: the options of the loop, the same for every kind."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import cos, pi
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from studio.errors import BadInput
from studio.requests.prompt_syntax import PromptSyntax
from studio.requests.validation import NotBlank, check, check_fields, option

__all__ = ["PRIOR_WEIGHT", "Recipe", "draft", "merge_options", "with_options"]

UNMASKED_WEIGHT = 0.1  # OneTrainer's
PRIOR_COUNT, PRIOR_WEIGHT = 100, 1.0  # those of diffusers' DreamBooth script
# Learning rates suit AdamW unless somebody says otherwise. Lion steps by the sign of its momentum
# and wants a third to a tenth (section 5 of its paper); the sketch base learns as fast with a half.
RATES = {"adamw": 1.0, "adamw8bit": 1.0, "lion": 1 / 3, "prodigy": 1.0}
PRODIGY = 1.0
UNKNOWN_STEPS = 10**9

AtLeastOne = Annotated[int, Ge(1)]
Count = Annotated[int, Ge(0)]
Amount = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True)
class Recipe:
    """The options of a training. Raises BadInput that names every field out of range."""

    steps: Annotated[int, Ge(1), Le(UNKNOWN_STEPS)] = option(500, "optimiser steps")
    batch: AtLeastOne = option(1, "pictures per batch")
    accumulation: AtLeastOne = option(1, "batches per optimiser step (gradient accumulation)")
    lr: Positive = option(1e-4, "learning rate at its highest")
    schedule: Literal["constant", "cosine", "linear"] = option(
        "constant", "learning rate schedule after the warmup; cosine and linear end at zero"
    )
    warmup: Count = option(0, "steps over which the learning rate rises from zero")
    text_encoders: bool = option(False, "train the text encoders too")
    text_lr: Positive = option(5e-6, "learning rate of the text encoders, on the same schedule")
    optimizer: Literal["adamw", "adamw8bit", "prodigy", "lion"] = option(
        "adamw", "AdamW, 8-bit AdamW, Prodigy (finds the learning rate; lr stays 1) or Lion"
    )
    weight_decay: Amount = option(0.01, "decoupled weight decay")
    lora_plus: Positive = option(
        1.0, "how many times faster matrices that start at zero learn; 1 is off, LoRA+ uses 16"
    )
    ema: Annotated[float, Ge(0), Lt(1)] = option(
        0.0, "save and draw an average of the steps (EMA) with this decay, such as 0.99; 0 is off"
    )
    new_tokens: Count = option(
        0, "vectors to learn for each word of the trigger in <angle brackets>; 0 is off"
    )
    token: NotBlank | None = option(None, "the new word, where the trigger has no brackets")
    token_init: NotBlank | None = option(
        None, "words that the new word starts as; random if not given"
    )
    token_lr: Positive = option(5e-4, "learning rate of the new words, on the same schedule")
    clip: Amount = option(1.0, "largest gradient norm; 0 is no limit")
    min_snr: Amount = option(5.0, "min-SNR gamma, which weighs easy timesteps less; 0 is off")
    noise_offset: Amount = option(
        0.0, "strength of single-colour noise, for dark and bright pictures; 0 is off"
    )
    input_perturbation: Amount = option(
        0.0, "noise added to the UNet's input alone, such as 0.1; 0 is off"
    )
    caption_dropout: Share = option(0.0, "share of the pictures trained without their caption")
    # Not "a1111" as in prompts: taggers write brackets that are no weights, as in miku_(vocaloid).
    caption_syntax: PromptSyntax = option(
        "plain", "how captions are read: plain, a1111 (weights and BREAK, as in prompts) or cut"
    )
    clip_skip: AtLeastOne | None = option(
        None, "layer of the text encoders from the end, 1 being the last; default: the base's own"
    )
    flip: bool = option(False, "mirror pictures at random")
    crops: AtLeastOne = option(1, "random crops per picture; 1 is the centre crop")
    size: Annotated[int, Gt(0)] | None = option(
        None, "side of the pictures in pixels; the base's own if not given"
    )
    buckets: bool = option(True, "keep aspect ratios; otherwise every picture is cropped square")
    background: NotBlank = option(
        "white", "colour behind the transparent parts of pictures, such as black or #808080"
    )
    checkpointing: bool = option(False, "gradient checkpointing: less memory, slower steps")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "precision of the computation; auto is that of the base's weights"
    )
    seed: Annotated[int, Ge(0), Lt(2**63)] = option(
        0, "random seed; on a CPU the same seed gives the same file"
    )
    sample_every: Count = option(0, "steps between sample pictures; 0 draws them only at the end")
    sample_prompts: tuple[str, ...] = option(
        (), "prompts of the sample pictures; the trigger if none is given"
    )
    save_every: Count = option(200, "steps between checkpoints; 0 saves one only when stopped")
    keep: Count = option(0, "number of newest checkpoints to keep; 0 keeps all")
    tensorboard: bool = option(
        False, "write losses, learning rates and samples for TensorBoard into the run's folder"
    )
    cache: Literal["memory", "disk"] = option(
        "memory", "where encoded pictures and captions are kept"
    )
    masked: Literal["alpha", "files"] | None = option(
        None, "learn only inside masks: the pictures' alpha channel, or mask files"
    )
    unmasked_weight: Share = option(
        UNMASKED_WEIGHT, "with masked: weight of the loss outside the mask"
    )
    prior_class: NotBlank | None = option(
        None, 'what the subject is, such as "a robot"; keeps the base\'s idea of it'
    )
    prior_count: Count = option(
        PRIOR_COUNT, "with prior_class: number of class pictures; missing ones are drawn"
    )
    prior_weight: Positive = option(PRIOR_WEIGHT, "with class pictures: weight of their loss")

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
        return self.lr * SCHEDULES[self.schedule](done)


# The share of the learning rate that is left; `done` runs from 0 to 1 after the warmup.
SCHEDULES = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: (1 + cos(pi * done)) / 2,
    "linear": lambda done: 1 - done,
}


def _check_prodigy(recipe: Recipe) -> None:
    """BadInput where some parameters are to have another learning rate."""
    advice = "and prodigy finds one rate for all: leave it out, or choose another optimizer"
    if recipe.lora_plus != 1:
        raise BadInput(f"lora_plus gives some matrices a higher learning rate, {advice}")
    if recipe.text_encoders and recipe.text_lr != recipe.lr:
        raise BadInput(f"text_lr is not lr, {advice}")
    if recipe.new_tokens and recipe.token_lr != recipe.lr:
        raise BadInput(f"token_lr is not lr, {advice}")


def draft(options: Mapping[str, object]) -> Recipe:
    """A recipe of these options while no base is known; BadInput as from `with_options`.

    Where `steps` is not given, the base and the kind decide on it, so a warmup has no limit yet.
    """
    return with_options(Recipe(steps=UNKNOWN_STEPS), options)


def with_options(recipe: Recipe, options: Mapping[str, object]) -> Recipe:
    """The recipe with some fields changed.

    Learning rates that are not among them follow a change of the optimizer. Raises BadInput for an
    unknown field, naming the nearest, and for a value out of range.
    """
    changes = check_fields(Recipe, options)
    return replace(recipe, **_rates(recipe, changes) | changes)  # pyright: ignore


def merge_options(
    options: Mapping[str, object], changes: Mapping[str, object]
) -> dict[str, object]:
    """The options with changes, where learning rates follow a change of the optimizer.

    Raises BadInput as `with_options` does.
    """
    rates = _rates(draft(options), changes)
    return {**options, **{name: rates[name] for name in rates if name in options}, **changes}


def _rates(recipe: Recipe, changes: Mapping[str, object]) -> dict[str, object]:
    """The recipe's learning rates as they suit the optimizer that the changes name."""
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
