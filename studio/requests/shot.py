"""A shot: everything that a user asks for one picture.

`studio.requests.resolved_shot` loads what a shot names, `studio.requests.shot_recipe` turns a shot
into a dictionary, and `compose.shot_from_dict` reads that back.
"""

import dataclasses
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le, Predicate, doc
from PIL import Image

from studio.bases.samplers import SCHEDULERS, SPACINGS, evaluations, order_of, sampling_problems
from studio.errors import BadInput
from studio.requests.prompt_syntax import PromptSyntax, read_prompt, split_adapter_tags
from studio.requests.regions import read_region, region_problems
from studio.requests.validation import InvalidFields, check_fields, option

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter

Scheduler = Annotated[
    str, Predicate(SCHEDULERS.__contains__), doc(f"one of {', '.join(SCHEDULERS)}")
]
Spacing = Annotated[str, Predicate(SPACINGS.__contains__), doc(f"one of {', '.join(SPACINGS)}")]
Pixels = Annotated[int, Ge(8), Le(8192)]
Share = Annotated[float, Ge(0), Le(1)]
RANDOM_SEED = -1  # stands for any seed, as in other programs
LARGEST_STRENGTH = 100  # of an adapter, in either direction
Strength = Annotated[
    float,
    Ge(-LARGEST_STRENGTH),
    Le(LARGEST_STRENGTH),
    doc(f"a strength from -{LARGEST_STRENGTH} to {LARGEST_STRENGTH}"),
]
MOST_TEXTS = 32  # regions, or texts to avoid: each costs an evaluation of the UNet at every step
# Fields that are checked only when their files or the base are opened.
CHECKED_LATER = ("base", "method", "init_image", "mask")


class Unset:
    """Marks a default, so that a speed adapter in the mix may replace it but no user's value."""


class UnsetInt(int, Unset):
    """A default of `steps`."""


class UnsetFloat(float, Unset):
    """A default of `guidance`."""


@dataclass(frozen=True)
class Shot:
    """Everything that one picture is made from.

    width, height: pixels of the first pass. None is the base's own size or, with `init_image`, that
        picture's proportions at the base's own area.
    steps: denoising steps of a whole schedule; with `init_image` only the share `denoise` is run.
    guidance: 1 or less leaves out the unconditional pass. A speed adapter in the mix sets steps
        and guidance that are not given, see studio/requests/speed.py.
    scheduler, spacing: one of SCHEDULERS and one of SPACINGS; None is the base's own.
    adapters: pairs of an adapter (or its file) and its strength.
    method: a method of compose/. None is `merge`, or `regions` where there are regions.
    mask: a picture that is white where `init_image` is drawn anew and black where its pixels stay.
    second_pass: factor by which the latents are then enlarged and denoised again.
    syntax: how prompts are read, see studio/requests/prompt_syntax.py.
    clip_skip: the layer of the text encoders to use, counted from the end; None is the base's own.
    regions: parts of the picture with their own prompt and adapters, see
        studio/requests/regions.py.
    avoid: texts to avoid, each separately. avoid_by: how, see compose/engine/texts/avoid.py.
    """

    prompt: str
    base: str = "sketch"
    negative: str = option("", "negative prompt: what the picture must not show")
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = option(
        0, "the same seed draws the same picture; -1 takes any"
    )
    width: Pixels | None = option(None, "pixels; default: the base's own size")
    height: Pixels | None = option(None, "pixels; default: the base's own size")
    steps: Annotated[int, Ge(1), Le(1000)] = option(
        UnsetInt(25), "denoising steps; more take longer"
    )
    guidance: Annotated[float, Ge(0), Le(1000)] = option(
        UnsetFloat(5.0),
        "CFG scale: how strictly the prompt is followed; at 1 or less it is fastest",
    )
    scheduler: Scheduler | None = option(
        None, f"sampler: {', '.join(SCHEDULERS)}; default: the base's own"
    )
    spacing: Spacing | None = option(
        None, f"spacing of the timesteps: {', '.join(SPACINGS)}; default: the base's own"
    )
    adapters: tuple[tuple["Adapter | str | Path", Strength], ...] = ()
    method: object | None = None
    init_image: Image.Image | str | Path | None = None
    denoise: Share = option(0.6, "with an init image: how much is drawn anew, up to 1")
    mask: Image.Image | str | Path | None = None
    second_pass: Annotated[float, Gt(1), Le(8)] | None = option(
        None, "then draw on at this many times the size, such as 2; default: no second pass"
    )
    second_denoise: Share = option(0.6, "with a second pass: how much it draws anew, up to 1")
    syntax: PromptSyntax = option(
        "a1111", "how prompts are read: a1111 (weights, BREAK, <lora:...>), plain or cut"
    )
    clip_skip: Annotated[int, Ge(1)] | None = option(
        None,
        "layer of the text encoders to use, from the end; 1 is the last; default: the base's",
    )
    regions: tuple[str, ...] = option(
        (),
        "part of the picture for an adapter or a prompt: x0,y0,x1,y1 in shares of the picture, or "
        'a picture that is white there, as in "0,0,0.5,1: a red robot" or "hat.png@2"',
    )

    avoid: tuple[str, ...] = option(
        (), "words that the picture must not show, while all else stays"
    )
    avoid_by: Literal["perp-neg", "decor"] = option(
        "perp-neg",
        "perp-neg steers away from them, and takes longer for each; decor takes them out of the "
        "prompt, at no cost",
    )
    avoid_strength: Annotated[float, Ge(0), Le(10)] = option(
        1.0, "how strongly words are avoided; with decor at most 1"
    )

    def __post_init__(self) -> None:
        if isinstance(self.adapters, str) or not all(map(_is_pair, self.adapters)):
            raise BadInput(
                "adapters: give pairs of an adapter and its strength, such as "
                f"[('robot.safetensors', 1.0)], and not {self.adapters!r}"
            )
        pairs = tuple((adapter, strength) for adapter, strength in self.adapters)
        object.__setattr__(self, "adapters", pairs)
        for name in ("regions", "avoid"):
            if isinstance(texts := getattr(self, name), list):  # from a recipe's JSON
                object.__setattr__(self, name, tuple(texts))
        object.__setattr__(self, "method", _with_tuples(self.method))

    @property
    def region_prompts(self) -> tuple[str, ...]:
        """The prompts of regions that have their own."""
        prompts = (read_region(text).prompt for text in self.regions)
        return tuple(prompt for prompt in prompts if prompt is not None)

    @property
    def steps_run(self) -> int:
        """How many denoising steps are run: with `init_image`, only the last of the schedule."""
        return self.steps if self.init_image is None else int(self.steps * self.denoise)

    @property
    def passes(self) -> tuple[int, ...]:
        """How many denoising steps the first pass runs and, if there is one, the second."""
        if self.second_pass is None:
            return (self.steps_run,)
        return self.steps_run, int(self.steps * self.second_denoise)

    def evaluations(self, order: int | None = None) -> tuple[int, ...]:
        """How often each step of all passes evaluates the UNet under one mix.

        order: the scheduler's order; None is that of the shot's scheduler.
        """
        order = order or order_of(self.scheduler)
        return tuple(times for steps in self.passes for times in evaluations(order, steps))

    def check(self) -> None:
        """Raise InvalidFields, which names every field that no picture can be made with."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        check_fields(Shot, {n: value for n, value in fields.items() if n not in CHECKED_LATER})
        problems = self._prompt_problems()
        problems |= sampling_problems(self.scheduler, self.spacing, self.steps)
        problems |= self._pass_problems()
        if problems:
            raise InvalidFields("; ".join(problems.values()), problems)

    def _pass_problems(self) -> dict[str, str]:
        """What is wrong with the fields of passes, init image and mask: a sentence by field."""
        problems: dict[str, str] = {}
        shares = {"denoise": self.denoise, "second_denoise": self.second_denoise}
        for (name, share), steps in zip(shares.items(), self.passes, strict=False):
            if steps < 1:
                problems[name] = (
                    f"{name} must be larger: {share:g} of {self.steps} steps is less than one "
                    f"step; raise {name} or steps"
                )
        if self.mask is not None and self.init_image is None:
            problems["mask"] = "mask needs init_image: give the picture that the mask belongs to"
        return problems

    def _prompt_problems(self) -> dict[str, str]:
        """What is wrong with the fields that hold prompts: a sentence by field."""
        counts = {"regions": len(self.regions), "avoid": len(self.avoid)}
        problems = {
            name: f"{name}: there are {count:,}, and {MOST_TEXTS} are the most"
            for name, count in counts.items()
            if count > MOST_TEXTS
        }
        if problems:
            return problems
        texts = [("prompt", split_adapter_tags(self.prompt)[0]), ("negative", self.negative)]
        if wrong := region_problems(self.regions):
            problems["regions"] = wrong
        else:
            texts += [("regions", text) for text in self.region_prompts]
        texts += [("avoid", text) for text in self.avoid]
        if any(not text.strip() for text in self.avoid):
            problems["avoid"] = "avoid: a text is empty; say what the picture must not show"
        elif self.avoid and self.avoid_by == "perp-neg" and self.guidance <= 1:
            problems["avoid"] = (
                f"avoid by perp-neg needs guidance above 1, and it is {self.guidance:g}: raise it, "
                "or avoid by decor"
            )
        if self.avoid_by == "decor" and self.avoid_strength > 1:
            problems["avoid_strength"] = "avoid_strength must be at most 1 with decor"
        for field, text in texts:
            try:
                read_prompt(text, self.syntax)
            except BadInput as error:
                problems[field] = f"{field}: {error}"
        return problems


def any_seed() -> int:
    """A random seed, in place of RANDOM_SEED; small enough for other programs."""
    return secrets.randbelow(2**31)


def _is_pair(given: object) -> bool:
    return isinstance(given, tuple | list) and len(given) == 2


def method_name(method: object | None, regions: Sequence[str] = ()) -> str:
    """A method's name, which is that of its file in compose/.

    None is `merge`, or `regions` where the shot has regions.
    """
    if method is None:
        return "regions" if regions else "merge"
    return type(method).__module__.rpartition(".")[2]


def _with_tuples(method: object | None) -> object | None:
    """The method with tuples in place of lists, so that methods of equal options are equal."""
    lists = {name: v for name, v in method_options(method).items() if isinstance(v, list)}
    if not lists:
        return method
    return dataclasses.replace(method, **{name: tuple(items) for name, items in lists.items()})  # pyright: ignore


def method_options(method: object | None) -> dict[str, object]:
    """A method's options by name."""
    if method is None or not dataclasses.is_dataclass(method) or isinstance(method, type):
        return {}
    return dataclasses.asdict(method)
