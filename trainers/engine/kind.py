"""What a kind of adapter is to the loop, and which kinds there are.

A kind is one file of this folder without a leading underscore, holding one frozen dataclass whose
name in lower case is the file's: lora.py holds LoRA. All that a kind must have is `Kind`; what it
may have besides is a protocol of its own each, and the loop asks whether it is there.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from studio.bases.resolve import BUNDLED_BASES
from studio.errors import BadInput
from trainers.engine.text_encoders import heard

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from studio.adapters.delta import Delta
    from studio.bases.base import Base
    from studio.bases.info import BaseInfo

__all__ = [
    "Adjusting",
    "Count",
    "Kind",
    "Penalising",
    "Published",
    "Telling",
    "Turn",
    "Turning",
    "count",
    "fitted",
    "is_sketch",
    "kind_name",
    "kind_options",
    "kinds",
    "new_deltas",
]


class Kind(Protocol):
    """How the layers that change are chosen, and with which form of delta they start."""

    def delta(
        self, name: str, layer: "nn.Module", *, generator: "torch.Generator"
    ) -> "Delta | None":
        """The delta that this layer of the base starts with; None where the layer stays.

        name: component and dotted path, as Base.layers names it. generator: on the CPU.
        """
        ...


@runtime_checkable
class Fitting(Protocol):
    """A kind that wants to see the whole base before it looks at single layers."""

    def fitted(self, base: "Base") -> Kind:
        """This kind with what it found there; BadInput where the base does not suit it."""
        ...


@runtime_checkable
class Penalising(Protocol):
    """A kind with a loss of its own beside that of the pictures."""

    def penalty(
        self,
        layers: "Mapping[str, nn.Module]",
        deltas: "Mapping[str, Delta]",
        *,
        generator: "torch.Generator",
    ) -> "Tensor | None":
        """What a step pays besides, a scalar; None for nothing. generator: the step's own."""
        ...


@runtime_checkable
class Adjusting(Protocol):
    """A kind that changes what is trained on the way."""

    def adjust(
        self,
        layers: "Mapping[str, nn.Module]",
        deltas: "Mapping[str, Delta]",
        *,
        done: int,
        steps: int,
    ) -> bool:
        """Called before every step, with so many of all steps done; whether anything changed.

        The parameters of the deltas stay the same objects, perhaps of another size; the optimiser
        then starts afresh. A resumed run may ask twice for one step, and gets the same.
        """
        ...


@dataclass(frozen=True)
class Turn:
    """What one step trains, and of what: everything, of whole pictures, if nothing is said."""

    resting: frozenset[str] = frozenset()
    """layers whose deltas are taken off for the step"""
    noise: float = 1.0
    """share of the timesteps that it may draw, from the cleanest"""
    part: float = 1.0
    """side of the part that is cut from every picture, of the picture's own"""
    course: range | None = None
    """steps, this one among them, over which the learning rate takes its course; all if None"""


@runtime_checkable
class Turning(Protocol):
    """A kind whose steps are not all alike."""

    def turn(self, deltas: "Mapping[str, Delta]", *, done: int, steps: int) -> Turn:
        """What the step after so many of all steps is to be."""
        ...


@runtime_checkable
class Published(Protocol):
    """A kind whose authors say how long and how fast it is to be trained."""

    def published(self, base: "Base | BaseInfo") -> dict[str, object]:
        """Fields of Recipe, by name, for a base of full size."""
        ...


@runtime_checkable
class Telling(Protocol):
    """A kind that has more to say of a base than how many parameters it would train."""

    def facts(self, base: "Base") -> dict[str, str]:
        """Short facts by their names, for who decides on the options."""
        ...


def fitted(kind: Kind, base: "Base") -> Kind:
    """The kind as it is trained on this base. Raises BadInput where it cannot be."""
    return kind.fitted(base) if isinstance(kind, Fitting) else kind


def is_sketch(base: "Base") -> bool:
    """Whether it is one of Studio's own small bases.

    They have little attention: what they draw, and how, is in their other layers too, so kinds
    left to themselves change more of them than of a base of full size.
    """
    return base.name in BUNDLED_BASES


def kinds() -> dict[str, type[Kind]]:
    """The kinds by name; the files of this folder are the list."""
    found = {}
    for path in sorted(Path(__file__).parent.parent.glob("[!_]*.py")):
        module = import_module(f"trainers.{path.stem}")
        name = next(name for name in vars(module) if name.lower() == path.stem)
        found[path.stem] = getattr(module, name)
    return found


def kind_name(kind: Kind) -> str:
    """The name that the command line, the run and the adapter file know this kind by."""
    return type(kind).__name__.lower()


def kind_options(kind: Kind) -> dict[str, str | int | float | bool | None]:
    """The options of this kind as plain values."""
    return asdict(kind)  # pyright: ignore[reportArgumentType]


def new_deltas(
    kind: Kind, base: "Base", *, generator: "torch.Generator", text_encoders: bool = False
) -> "dict[str, Delta]":
    """The deltas that a training of this kind starts from, in the order of the base's layers.

    Raises BadInput when the kind finds no layer to change, or none of the text encoders.
    """
    deltas = {}
    for name, layer in base.layers().items():
        if not name.startswith("unet.") and not (text_encoders and heard(base, name)):
            continue
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
    """What a kind would train on a base."""

    base: str
    weights: int
    """parameters of the base's UNet"""
    layers: int
    parameters: int
    """numbers trained"""
    facts: dict[str, str]
    """what else the kind says of the base"""


def count(kind: Kind, base: "Base", *, text_encoders: bool = False) -> Count:
    """What the kind would train, without pictures; on `real_config` without weights too.

    text_encoders: whether they are trained too, as `Recipe` has it.
    Raises BadInput where the kind does not suit the base.
    """
    import torch

    kind = fitted(kind, base)
    deltas = new_deltas(kind, base, generator=torch.Generator(), text_encoders=text_encoders)
    return Count(
        base=base.name,
        weights=sum(weight.numel() for weight in base.unet.parameters()),
        layers=len(deltas),
        parameters=sum(p.numel() for delta in deltas.values() for p in delta.parameters()),
        facts=kind.facts(base) if isinstance(kind, Telling) else {},
    )
