"""What a method of composition is, and how methods are found: one file of this folder each.

A method decides, at every denoising step, under which mixes the UNet is evaluated and what
becomes of the predictions. It never sees the UNet: `Eps` evaluates it, so a method runs as well
with a fake that records what it was asked.
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

    adapter: its place among the shot's adapters. strength: what its change is multiplied by.
    layers: the layers of the base it is for, or None for all that it changes.
    """

    adapter: int
    strength: float
    layers: frozenset[str] | None = None


class Combine(Protocol):
    """Makes one change to a weight of several; hashable, and equal where it does the same."""

    def __call__(self, layer: str, changes: Sequence["Tensor"]) -> "Tensor":
        """changes: strength x dW, float32, each shaped as the weight, as is what is returned."""
        ...


@dataclass(frozen=True)
class Mix:
    """What is mixed into the base's weights in one evaluation: the sum of its parts' changes.

    parts: for the UNet, and for the text encoders too unless `text` gives those their own.
    combine: what takes the sum's place; biases are summed always.
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
        """The layers of the base that it changes."""
        ...

    def change(self, layer: str) -> "Tensor":
        """Its change to a layer's weight at strength 1: float32, shaped as the weight."""
        ...

    def size(self, layer: str, k: int) -> "Tensor":
        """At strength 1 the sum of its k largest |entries| in a layer, and of all; remembered.

        float64, [2].
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
    """Both predictions, each [1, 4, h, w]. guidance: the shot's scale, for those who guide."""

    without: "Tensor"
    prompted: "Tensor"
    guidance: float


@dataclass(frozen=True)
class Eps:
    """Evaluates the UNet at this step's latents under a mix; answer: how it does that.

    areas: of a RegionalPlan, [1, 1, h, w] for each; numbers where there is no picture.
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

        reuse: a mix evaluated in full at an earlier step, whose deep features take the place of
        computing them; None computes everything. prompt: takes the place of the shot's. box: the
        part of the picture that is evaluated, as a picture of its own; outside of it the prediction
        is 0.
        """
        return cast("Tensor", self.answer(Call(mix, reuse, prompt=prompt, box=box)))

    def halves(self, mix: Mix, reuse: Mix | None = None) -> Halves:
        """The predictions without the prompt and with it, for methods with their own guidance.

        The negative prompt is then evaluated too where the shot's guidance is 1.
        """
        return cast(Halves, self.answer(Call(mix, reuse, guided=False)))


class Plan(Protocol):
    """A method made ready for pictures of a number of steps.

    It remembers nothing from step to step, so that one plan serves any number of pictures.
    """

    def predict(self, step: int, eps: Eps) -> "Tensor":
        """The noise prediction [1, 4, h, w] of a denoising step, counted from 0."""
        ...


@runtime_checkable
class RegionalPlan(Plan, Protocol):
    """A plan whose predictions count in parts of the picture, as `Eps.areas` tells it."""

    @property
    def shares(self) -> tuple[float, ...]:
        """How much of a picture each area takes, before there is one."""
        ...

    def areas(self, grid: Grid) -> "Tensor":
        """The areas in these latents: [N, 1, 1, h, w]."""
        ...


@dataclass(frozen=True)
class InTurn:
    """A plan of one evaluation a step, under one mix after the other, round and round."""

    mixes: tuple[Mix, ...]

    def predict(self, step: int, eps: Eps) -> "Tensor":
        """The prediction under the mix whose turn it is."""
        return eps(self.mixes[step % len(self.mixes)])


def record_step(
    plan: Plan, step: int, answers: "Callable[[int], Tensor]"
) -> "tuple[list[Call], Tensor]":
    """What a plan asks for at a step, and what it predicts, without any model.

    answers: what stands for the prediction of each call, by the call's number from 0.
    """
    calls: list[Call] = []

    def answer(call: Call) -> "Tensor | Halves":
        calls.append(call)
        given = answers(len(calls) - 1)
        return given if call.guided else Halves(given, given, 1.0)

    shares = plan.shares if isinstance(plan, RegionalPlan) else ()
    return calls, plan.predict(step, Eps(answer, shares))


def record(plan: Plan, steps: int) -> list[list[Call]]:
    """What a plan asks for at each of the denoising steps, without any model."""
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
        """Compute what depends on the weights and the steps only; see Plan."""
        ...


@runtime_checkable
class RegionalMethod(Method, Protocol):
    """A method that needs to know the shot's regions."""

    def in_regions(self, regions: Sequence[str]) -> Method:
        """The same method with these regions."""
        ...


@runtime_checkable
class FindingMethod(Method, Protocol):
    """A method that first draws a part of the steps, to find where regions are.

    Its own plan is that of the picture drawn after that, with every region as large as the picture.
    """

    @property
    def finding(self) -> Method:
        """How these first steps are drawn."""
        ...

    @property
    def drawn(self) -> Method:
        """How the picture is drawn once the regions are known."""
        ...

    @property
    def contrast(self) -> float:
        """How far latents are moved so that concepts part; see compose/engine/regions/contrast."""
        ...

    def concepts(self, adapters: "Sequence[Adapter]", prompt: str) -> tuple[Concept, ...]:
        """What the regions show. Raises BadInput where the prompt does not say it."""
        ...

    def placed(self, masks: Sequence[str], prompts: Sequence[str]) -> tuple[str, ...]:
        """The shot's regions, once they are found. masks: as `mask_address` writes them."""
        ...


def finding_steps(steps: int) -> int:
    """In how many steps, of a picture of so many, its regions are found: a third (FreeFuse)."""
    return max(1, round(steps / 3))


def phases(method: Method, passes: Sequence[int]) -> list[tuple[Method, int]]:
    """The methods and numbers of steps that make a picture. passes: its first and its second."""
    drawn = [(method, steps) for steps in passes]
    if not isinstance(method, FindingMethod):
        return drawn
    return [(method.finding, finding_steps(passes[0])), *drawn]


@runtime_checkable
class WeighedMethod(Method, Protocol):
    """A method that may share steps out by what the adapters' trigger words change in the text."""

    @property
    def weigh(self) -> str:
        """ "trigger" where it does; see compose/engine/texts/trigger_effects.py."""
        ...

    def weighed(self, effects: Sequence[float]) -> Method:
        """The same method, given the effect of each adapter's words, 0 or more."""
        ...


def needs_text(method: Method) -> bool:
    """Whether what it does depends on the text embedding of the prompt."""
    return isinstance(method, WeighedMethod) and method.weigh == "trigger"


def method_of(shot: "Shot") -> Method:
    """The shot's method, with its regions; BadInput where it is none, or has no use for them."""
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
    """BadInput unless these are places among so many adapters, counted from 1."""
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
    """The method of this name with these options; BadInput names what is unknown."""
    known = methods()
    if name not in known:
        raise BadInput(f"There is no method {name!r}; there are {', '.join(known)}.")
    return build(known[name], options, where=f"method {name}")


def options_before(name: str) -> dict[str, object]:
    """What a method did before it had some of its options, by their names."""
    kind = methods().get(name)
    if kind is None or not dataclasses.is_dataclass(kind):
        return {}
    fields = dataclasses.fields(kind)
    return {one.name: one.metadata["before"] for one in fields if "before" in one.metadata}


def _method_in(module: object) -> type[Method]:
    found = [
        kind
        for kind in vars(module).values()
        if inspect.isclass(kind)
        and dataclasses.is_dataclass(kind)
        and kind.__module__ == getattr(module, "__name__", None)
        and hasattr(kind, "prepare")
    ]
    return cast(type[Method], found[0])  # those behind it are made from it
