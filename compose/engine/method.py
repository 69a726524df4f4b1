"""What a method of composition is, and how methods are found: one file of this folder each.

At every denoising step a method decides under which mixes the UNet is evaluated, and combines the
predictions. It never sees the UNet: it calls an `Eps`. So a method also runs with a fake that
records the calls.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast, runtime_checkable

from compose.engine.regions.concepts import Concept
from compose.engine.regions.crops import Box, Grid
from studio.errors import BadInput
from studio.requests.shot import method_name
from studio.requests.validation import build

if TYPE_CHECKING:
    from torch import Tensor

    from studio.adapters.adapter import Adapter
    from studio.requests.shot import Shot


@dataclass(frozen=True)
class Part:
    """One adapter's share of a mix.

    adapter: its place among the shot's adapters, from 0. strength: the factor of its change.
    layers: the layers of the base that get the change, or None for all that the adapter changes.
    """

    adapter: int
    strength: float
    layers: frozenset[str] | None = None


class Combine(Protocol):
    """Combines several changes to a weight into one.

    Hashable. Two that are equal combine in the same way.
    """

    def __call__(self, layer: str, changes: Sequence["Tensor"]) -> "Tensor":
        """The combined change. changes: strength x dW, float32; all have the weight's shape."""
        ...


@dataclass(frozen=True)
class Mix:
    """The change to the base's weights in one evaluation: the sum of the parts' changes.

    parts: those of the UNet, and of the text encoders too where `text` is None. text: the parts of
    the text encoders. combine: takes the place of the sum; biases are always summed.
    """

    parts: tuple[Part, ...]
    text: tuple[Part, ...] | None = None
    combine: Combine | None = None


class MethodAdapter(Protocol):
    """An adapter of the shot, as a method sees it."""

    @property
    def adapter(self) -> "Adapter": ...

    @property
    def strength(self) -> float: ...

    def changed(self) -> Sequence[str]:
        """The layers of the base that the adapter changes."""
        ...

    def change(self, layer: str) -> "Tensor":
        """The change to a layer's weight at strength 1: float32, in the weight's shape."""
        ...

    def size(self, layer: str, k: int) -> "Tensor":
        """[2], float64: the sums of the k largest |dW| of a layer and of all, at strength 1.

        Computed once and kept.
        """
        ...


@dataclass(frozen=True)
class Call:
    """One evaluation of the UNet that a plan asks for; see Eps."""

    mix: Mix
    reuse: Mix | None = None
    guided: bool = True
    prompt: str | None = None
    box: Box | None = None


class Halves(NamedTuple):
    """The predictions without the prompt and with it, each [1, 4, h, w].

    guidance: the shot's guidance scale, for methods with their own guidance.
    """

    without: "Tensor"
    prompted: "Tensor"
    guidance: float


@dataclass(frozen=True)
class Eps:
    """Evaluates the UNet at this step's latents under a mix.

    answer: does the evaluation. areas: the areas of a RegionalPlan, each [1, 1, h, w]; where only
    a schedule is made, each is a number, its share of the picture.
    """

    answer: "Callable[[Call], Tensor | Halves]"
    areas: "Sequence[Tensor | float]" = ()

    def __call__(
        self,
        mix: Mix,
        reuse: Mix | None = None,
        *,
        prompt: str | None = None,
        box: Box | None = None,
    ) -> "Tensor":
        """The guided noise prediction [1, 4, h, w].

        reuse: a mix that was evaluated in full at an earlier step, and whose deep features are used
        here; None for a full evaluation. prompt: in place of the shot's. box: the UNet sees only
        this part of the picture, as a picture of its own; outside of it the prediction is 0.
        """
        return cast("Tensor", self.answer(Call(mix, reuse, prompt=prompt, box=box)))

    def halves(self, mix: Mix, reuse: Mix | None = None) -> Halves:
        """The predictions without the prompt and with it, for methods with their own guidance.

        Both are evaluated even where the shot's guidance is 1.
        """
        return cast(Halves, self.answer(Call(mix, reuse, guided=False)))


class Plan(Protocol):
    """A method prepared for its adapters and a number of steps.

    It keeps no state from step to step, so one plan serves any number of pictures.
    """

    def predict(self, step: int, eps: Eps) -> "Tensor":
        """The noise prediction [1, 4, h, w] of a denoising step, counted from 0."""
        ...


@runtime_checkable
class RegionalPlan(Plan, Protocol):
    """A plan that weighs predictions by areas of the picture, which it gets as `Eps.areas`."""

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of the picture that each area takes, for a schedule, which has no picture."""
        ...

    def areas(self, grid: Grid) -> "Tensor":
        """The areas as masks of the size of these latents: [N, 1, 1, h, w]."""
        ...


@dataclass(frozen=True)
class InTurn:
    """A plan of one evaluation a step: the mixes take turns, and start again after the last."""

    mixes: tuple[Mix, ...]

    def predict(self, step: int, eps: Eps) -> "Tensor":
        """The prediction under the mix whose turn it is."""
        return eps(self.mixes[step % len(self.mixes)])


def record_step(
    plan: Plan, step: int, answers: "Callable[[int], Tensor]"
) -> "tuple[list[Call], Tensor]":
    """The calls of a plan at a step and the plan's prediction, without any model.

    answers: gives a stand-in for the prediction of each call, by the call's number from 0.
    """
    calls: list[Call] = []

    def answer(call: Call) -> "Tensor | Halves":
        calls.append(call)
        stand_in = answers(len(calls) - 1)
        return stand_in if call.guided else Halves(stand_in, stand_in, 1.0)

    shares = plan.shares if isinstance(plan, RegionalPlan) else ()
    return calls, plan.predict(step, Eps(answer, shares))


def record(plan: Plan, steps: int) -> list[list[Call]]:
    """The calls of a plan at each of the denoising steps, without any model."""
    import torch  # takes seconds, and methods are read for their options without it

    nothing = torch.zeros(1, 4, 1, 1)
    return [record_step(plan, step, lambda _: nothing)[0] for step in range(steps)]


@runtime_checkable
class Method(Protocol):
    """A frozen dataclass whose fields are the method's options."""

    def check(self, adapters: "Sequence[Adapter]") -> None:
        """Raise BadInput, in a sentence, for options or adapters that this method can't use."""
        ...

    def prepare(self, adapters: Sequence[MethodAdapter], steps: int) -> Plan:
        """The plan, with everything computed that depends only on the weights and the steps."""
        ...


@runtime_checkable
class RegionalMethod(Method, Protocol):
    """A method that needs to know the shot's regions."""

    def in_regions(self, regions: Sequence[str]) -> Method:
        """The same method with these regions."""
        ...


@runtime_checkable
class FindingMethod(Method, Protocol):
    """A method that first draws some of the steps to find the regions, then draws the picture.

    Its own plan, made before the regions are known, takes each region to be the whole picture.
    """

    @property
    def finding(self) -> Method:
        """The method of the steps in which the regions are found."""
        ...

    @property
    def drawn(self) -> Method:
        """The method of the picture once the regions are known."""
        ...

    @property
    def contrast(self) -> float:
        """How far latents are moved to separate concepts; see compose/engine/regions/contrast."""
        ...

    def concepts(self, adapters: "Sequence[Adapter]", prompt: str) -> tuple[Concept, ...]:
        """What the regions show. Raises BadInput where the prompt has no words for it."""
        ...

    def placed(self, masks: Sequence[str], prompts: Sequence[str]) -> tuple[str, ...]:
        """The shot's regions, once they are found. masks: as `mask_address` writes them."""
        ...


def finding_steps(steps: int) -> int:
    """The number of steps in which regions are found: a third of the picture's (FreeFuse)."""
    return max(1, round(steps / 3))


def phases(method: Method, passes: Sequence[int]) -> list[tuple[Method, int]]:
    """The methods that make a picture, each with its number of steps.

    passes: the steps of the first pass and, if there is one, of the second.
    """
    drawn = [(method, steps) for steps in passes]
    if not isinstance(method, FindingMethod):
        return drawn
    return [(method.finding, finding_steps(passes[0])), *drawn]


@runtime_checkable
class WeighedMethod(Method, Protocol):
    """A method that can weigh adapters by how much their trigger words change the prompt."""

    @property
    def weigh(self) -> str:
        """ "trigger" where it does so; see compose/engine/texts/trigger_effects.py."""
        ...

    def weighed(self, effects: Sequence[float]) -> Method:
        """The same method with these weights. effects: one for each adapter, 0 or more."""
        ...


def needs_text(method: Method) -> bool:
    """Whether the method's plan depends on the text embedding of the prompt."""
    return isinstance(method, WeighedMethod) and method.weigh == "trigger"


def method_of(shot: "Shot") -> Method:
    """The shot's method, with the shot's regions.

    Raises BadInput for an object that is no method, and for regions that the method doesn't use.
    """
    method = shot.method
    if method is None:
        method = methods()[method_name(None, shot.regions)]()
    if isinstance(method, type) or not isinstance(method, Method):
        raise BadInput(f"method: {method!r} is not a method of compose.")
    if isinstance(method, RegionalMethod):
        return method.in_regions(shot.regions)
    if shot.regions:
        raise BadInput(
            f"regions: the method {method_name(method)} has no use for them; take the method "
            "regions, or leave them out"
        )
    return method


def check_places(option: str, places: Sequence[int], count: int) -> None:
    """Raise BadInput unless these are numbers of adapters, from 1 to `count`."""
    for place in places:
        if not 1 <= place <= count:
            raise BadInput(
                f"{option}: there is no adapter {place}; they are counted from 1 to {count}."
            )


def methods() -> dict[str, type[Method]]:
    """Every method by name: the files of this folder without a leading underscore."""
    names = sorted(path.stem for path in Path(__file__).parent.parent.glob("[!_]*.py"))
    return {name: _method_in(importlib.import_module(f"compose.{name}")) for name in names}


def method_named(name: str, options: Mapping[str, object]) -> Method:
    """The method of this name with these options. Raises BadInput for an unknown name or option."""
    known = methods()
    if name not in known:
        raise BadInput(f"There is no method {name!r}; there are {', '.join(known)}.")
    return build(known[name], options, where=f"method {name}")


def options_before(name: str) -> dict[str, object]:
    """The values of a method's newer options that older recipes, which lack them, stand for."""
    kind = methods().get(name)
    if kind is None or not dataclasses.is_dataclass(kind):
        return {}
    fields = dataclasses.fields(kind)
    return {one.name: one.metadata["before"] for one in fields if "before" in one.metadata}


def _method_in(module: object) -> type[Method]:
    classes = [
        kind
        for kind in vars(module).values()
        if inspect.isclass(kind)
        and dataclasses.is_dataclass(kind)
        and kind.__module__ == getattr(module, "__name__", None)
        and hasattr(kind, "prepare")
    ]
    return cast(type[Method], classes[0])  # the file's first class; the others are made from it
