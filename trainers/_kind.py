"""What a kind of adapter is to the loop, and which kinds there are.

A kind is one file of this folder without a leading underscore, holding one frozen dataclass whose
name in lower case is the file's: lora.py holds LoRA.
"""

from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from studio.errors import BadInput

if TYPE_CHECKING:
    import torch
    from torch import nn

    from studio.base import Base
    from studio.delta import Delta

__all__ = ["Kind", "kind_name", "kind_options", "kinds", "new_deltas"]


class Kind(Protocol):
    """How the layers that change are chosen, and with which form of delta they start."""

    def delta(
        self, name: str, layer: "nn.Module", *, generator: "torch.Generator"
    ) -> "Delta | None":
        """The delta that this layer of the base starts with; None where the layer stays.

        name: component and dotted path, as Base.layers names it. generator: on the CPU.
        """
        ...


def kinds() -> dict[str, type[Kind]]:
    """The kinds by name; the files of this folder are the list."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
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


def new_deltas(kind: Kind, base: "Base", *, generator: "torch.Generator") -> "dict[str, Delta]":
    """The deltas that a training of this kind starts from, in the order of the base's layers.

    Raises BadInput when the kind finds no layer to change.
    """
    deltas = {}
    for name, layer in base.layers().items():
        delta = kind.delta(name, layer, generator=generator)
        if delta is not None:
            deltas[name] = delta
    if not deltas:
        raise BadInput(f"{kind_name(kind)} found no layer to change in {base.name}")
    return deltas
