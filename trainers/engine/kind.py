"""`Kind`, the interface between the loop and a kind of adapter, and the list of kinds.

A kind is one file of trainers/, of trainers/distillations/ or of trainers/rewards/. It holds one
frozen dataclass, a `Kind`, whose name in lower case is that of the file: lora.py holds LoRA. Its
fields are its options. A kind must define `delta`; the other methods of `Kind` do nothing by
default.
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

    Layers = Mapping[str, nn.Module]  # by layer name, see Base.layers
    Deltas = Mapping[str, Delta]  # by layer name

SMALL = 128  # pixels: a base of this size or less is a sketch base, which learns fast


@dataclass(frozen=True)
class StepPlan:
    """What one step trains, and on what. By default all deltas, on whole pictures."""

    detached: frozenset[str] = frozenset()
    """layers whose deltas are detached for the step"""
    frozen: frozenset[str] = frozenset()
    """layers whose deltas act in the step but do not learn"""
    clean: bool = False
    """whether the loss is the error of the predicted clean latents, not of the noise"""
    timesteps: float = 1.0
    """share of the timesteps that the step may draw, from the cleanest"""
    patch: float = 1.0
    """side of the patch that is cropped from every picture, as a share of the picture's side"""
    schedule: range | None = None
    """the steps, including this one, over which the learning rate's schedule runs; None: all"""


@dataclass(frozen=True)
class Kind:
    """How layers to change are chosen, and how their deltas start and are trained.

    unused: fields of a recipe that this kind does not use, and refuses.
    too_coarse: quantizations of a base on which this kind can't learn.
    Raises BadInput, which names every option out of range.
    """

    unused: ClassVar[frozenset[str]] = frozenset()
    too_coarse: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        check(self)

    def for_base(self, base: "Base") -> Self:
        """This kind with options that suit a base. Raises BadInput if it can't train this base."""
        return self

    def delta(
        self, name: str, layer: "nn.Module", *, generator: "torch.Generator"
    ) -> "Delta | None":
        """The delta that a layer of the base starts with; None for a layer that is not trained.

        name: the layer's name, see Base.layers. generator: on the CPU.
        """
        raise NotImplementedError

    def begin(self, layers: "Layers", deltas: "Deltas", passes: "Iterator[None]") -> None:
        """Called once before the first step, with the deltas attached. May change their values.

        passes: each `next` runs the base once, without gradients, on a batch of the pictures.
        """

    def penalty(
        self, layers: "Layers", deltas: "Deltas", *, generator: "torch.Generator"
    ) -> "Tensor | None":
        """A loss that the kind adds to the loss on pictures, a scalar; None for none.

        generator: seeded for this step.
        """
        return None

    def adjust(self, layers: "Layers", deltas: "Deltas", *, done: int, steps: int) -> bool:
        """Called before every step, after `done` of `steps`. Returns whether it changed deltas.

        A change starts the optimizer afresh. The parameters of the deltas must stay the same
        objects; their sizes may change. A resumed run may call this again for a step that was
        adjusted already, so a second call must give the same deltas.
        """
        return False

    def plan_step(self, deltas: "Deltas", *, done: int, steps: int) -> StepPlan:
        """What the next step trains, after `done` of `steps`."""
        return StepPlan()

    def published(self, base: "Base | BaseInfo") -> dict[str, object]:
        """The fields of Recipe that the authors set for a base of full size, by name."""
        return {}

    def facts(self, base: "Base") -> dict[str, str]:
        """Short facts about a base, by name, that help to choose the options."""
        return {}


def check_quantize(kind: Kind, quantize: str) -> None:
    """Raise BadInput for a quantization that leaves weights too coarse for the kind."""
    if quantize in kind.too_coarse:
        raise BadInput(
            f"{kind_name(kind)} needs the differences between the base's small weights, which "
            f"{quantize} rounds away: open the base with quantize fp8 or none"
        )


def is_sketch(base: "Base") -> bool:
    """Whether the base is one of Studio's own small bases.

    They have little attention, and much of what they know is in other layers. So by default kinds
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
    """All kinds by name."""
    return kinds() | distillation_kinds() | reward_kinds()


def _kinds_in(package: str) -> dict[str, type[Kind]]:
    classes = {}
    folder = Path(__file__).parents[2].joinpath(*package.split("."))
    for path in sorted(folder.glob("[!_]*.py")):
        module = import_module(f"{package}.{path.stem}")
        name = next(name for name in vars(module) if name.lower() == path.stem)
        classes[path.stem] = getattr(module, name)
    return classes


def kind_name(kind: Kind) -> str:
    """The name of a kind on the command line, in a run and in an adapter file.

    Raises BadInput for what is no kind.
    """
    if not isinstance(kind, Kind):
        raise BadInput(f"a kind is such as trainers.LoRA(rank=16), and not {kind!r}")
    return type(kind).__name__.lower()


def options_of(kind: Kind, *, private: bool = True) -> dict[str, JSON]:
    """The options of a kind as JSON. private: whether paths are complete; False: names only."""
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
    """The deltas that a training of this kind starts with, in the order of the base's layers.

    Raises BadInput when the kind changes no layer, or, with `text_encoders`, no layer of a text
    encoder.
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
    """How much a kind would train on a base. Needs no pictures and, with `real_config`, no weights.

    text_encoders: whether the text encoders are trained too.
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
