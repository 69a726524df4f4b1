"""`Kind`, the interface between the loop and a kind of adapter, and the list of kinds.

A kind is one file of trainers/, of trainers/distillations/ or of trainers/rewards/, holding one
frozen dataclass, a `Kind`, whose name in lower case is that of the file: lora.py holds LoRA. Its
fields are its options. It must have `delta`; the other methods of `Kind` do nothing unless a kind
has its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from studio.bases.names import BUNDLED_BASES
from studio.errors import BadInput
from studio.json_value import JSON
from studio.requests.validation import check
from trainers.engine.text_encoders import is_layer_used

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from studio.adapters.delta import Delta
    from studio.bases.base import Base
    from studio.bases.info import BaseInfo

    Layers = Mapping[str, nn.Module]  # by their names, as Base.layers has them
    Deltas = Mapping[str, Delta]  # by the names of their layers

SMALL = 128  # pixels: a base of this size or less is a sketch, and learns fast


@dataclass(frozen=True)
class StepPlan:
    """What one step trains, and on what. By default all deltas, on whole pictures."""

    detached: frozenset[str] = frozenset()
    """layers whose deltas are taken off for the step"""
    frozen: frozenset[str] = frozenset()
    """layers whose deltas act in the step and do not learn"""
    clean: bool = False
    """whether the loss is that of the picture that is predicted, not of its noise"""
    timesteps: float = 1.0
    """share of the timesteps that it may draw, from the cleanest"""
    patch: float = 1.0
    """side of the patch that is cropped from every picture, as a share of the picture's own"""
    schedule: range | None = None
    """steps, this one among them, over which the learning rate's schedule runs; all if None"""


@dataclass(frozen=True)
class Kind:
    """How the layers that change are chosen, and how their deltas start and are trained.

    unused: fields of a recipe that this kind does not use, and refuses. too_coarse: forms of a
    quantized base that it can't learn on.
    Raises BadInput that names every option out of range.
    """

    unused: ClassVar[frozenset[str]] = frozenset()
    too_coarse: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        check(self)

    def for_base(self, base: "Base") -> Self:
        """This kind with the options that suit a base; BadInput if it cannot train this base."""
        return self

    def delta(
        self, name: str, layer: "nn.Module", *, generator: "torch.Generator"
    ) -> "Delta | None":
        """The delta that a layer of the base starts with; None for a layer that is not trained.

        name: component and dotted path, as Base.layers names it. generator: on the CPU.
        """
        raise NotImplementedError

    def begin(self, layers: "Layers", deltas: "Deltas", passes: "Iterator[None]") -> None:
        """Called once before the first step, the deltas attached; it may change their values.

        passes: each step of it runs the base once, without gradients, on a batch of the pictures.
        """

    def penalty(
        self, layers: "Layers", deltas: "Deltas", *, generator: "torch.Generator"
    ) -> "Tensor | None":
        """A loss of the kind's own beside that of the pictures, a scalar; None for none.

        generator: the step's own.
        """
        return None

    def adjust(self, layers: "Layers", deltas: "Deltas", *, done: int, steps: int) -> bool:
        """Called before every step, with `done` of `steps` taken; whether anything was changed.

        The parameters of the deltas stay the same objects, perhaps of another size; the optimizer
        then starts afresh. A resumed run may ask twice for one step, and gets the same.
        """
        return False

    def plan_step(self, deltas: "Deltas", *, done: int, steps: int) -> StepPlan:
        """What the step after `done` of `steps` trains."""
        return StepPlan()

    def published(self, base: "Base | BaseInfo") -> dict[str, object]:
        """Fields of Recipe as the authors train a base of full size, by name."""
        return {}

    def facts(self, base: "Base") -> dict[str, str]:
        """Short facts about a base, by name, that help to choose the options."""
        return {}


def check_quantize(kind: Kind, quantize: str) -> None:
    """BadInput for a form in which the base's weights are too coarse for a kind."""
    if quantize in kind.too_coarse:
        raise BadInput(
            f"{kind_name(kind)} starts from how the base's weights differ, which {quantize} leaves "
            "too little of: open the base with quantize fp8 or none"
        )


def is_sketch(base: "Base") -> bool:
    """Whether it is one of Studio's own small bases.

    They have little attention, and what they draw is in their other layers too. So by default kinds
    train more of their layers than of a base of full size.
    """
    return base.name in BUNDLED_BASES


def kinds() -> dict[str, type[Kind]]:
    """The kinds that learn from pictures, by name; the files of trainers/ are the list."""
    return _kinds_in("trainers")


def distillation_kinds() -> dict[str, type[Kind]]:
    """The kinds that learn from the base itself, by name; the files of trainers/distillations/."""
    return _kinds_in("trainers.distillations")


def reward_kinds() -> dict[str, type[Kind]]:
    """The kinds that learn from a reward, by name; the files of trainers/rewards/."""
    return _kinds_in("trainers.rewards")


def all_kinds() -> dict[str, type[Kind]]:
    """All of them."""
    return kinds() | distillation_kinds() | reward_kinds()


def _kinds_in(package: str) -> dict[str, type[Kind]]:
    found = {}
    folder = Path(__file__).parents[2].joinpath(*package.split("."))
    for path in sorted(folder.glob("[!_]*.py")):
        module = import_module(f"{package}.{path.stem}")
        name = next(name for name in vars(module) if name.lower() == path.stem)
        found[path.stem] = getattr(module, name)
    return found


def kind_name(kind: Kind) -> str:
    """The name of a kind on the command line, in a run and in an adapter file."""
    return type(kind).__name__.lower()


def options_of(kind: Kind, *, private: bool = True) -> dict[str, JSON]:
    """The options of a kind as JSON has them. private: whether paths are whole, not only names."""
    return {name: _as_json(value, private) for name, value in asdict(kind).items()}


def _as_json(value: Any, private: bool) -> JSON:
    if isinstance(value, Path):
        return str(value) if private else value.name
    return list(value) if isinstance(value, tuple) else value


def new_deltas(
    kind: Kind,
    base: "Base",
    *,
    generator: "torch.Generator",
    text_encoders: bool = False,
    clip_skip: int | None = None,
) -> "dict[str, Delta]":
    """The deltas at the start of a training of this kind, in the order of the base's layers.

    Raises BadInput when the kind changes no layer, or with `text_encoders` none of theirs.
    """
    deltas = {}
    for name, layer in base.layers().items():
        used = name.startswith("unet.") or is_layer_used(base, name, clip_skip=clip_skip)
        if used and (text_encoders or name.startswith("unet.")):
            delta = kind.delta(name, layer, generator=generator)
            if delta is not None:
                deltas[name] = delta
    if not deltas:
        raise BadInput(f"{kind_name(kind)} found no layer to change in {base.name}")
    if text_encoders and all(name.startswith("unet.") for name in deltas):
        raise BadInput(
            f"{kind_name(kind)} changes nothing in the text encoders: leave out text_encoders"
        )
    return deltas


@dataclass(frozen=True)
class Count:
    """How much a kind would train on a base."""

    base: str
    weights: int
    """parameters of the base's UNet"""
    layers: int
    parameters: int
    """how many numbers would be trained"""
    facts: dict[str, str]
    """facts about the base, see Kind.facts"""


def count(kind: Kind, base: "Base", *, text_encoders: bool = False) -> Count:
    """How much the kind would train. Needs no pictures and, with `real_config`, no weights.

    text_encoders: whether they are trained too, as `Recipe` has it.
    Raises BadInput where the kind does not suit the base.
    """
    import torch

    from studio.cost.fake_base import rebuild

    kind = kind.for_base(base)
    deltas = new_deltas(kind, base, generator=torch.Generator(), text_encoders=text_encoders)
    return Count(
        base=base.name,
        weights=sum(weight.numel() for weight in rebuild(base.unet).parameters()),
        layers=len(deltas),
        parameters=sum(p.numel() for delta in deltas.values() for p in delta.parameters()),
        facts=kind.facts(base),
    )
