"""The progress of a training: one frozen dataclass for each thing that can happen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter
    from studio.dataset.left_out import Skipped


@dataclass(frozen=True)
class Started:
    """Everything is checked and the run's folder is made. Drawing and encoding come next."""

    run: Path
    layers: int
    """how many layers of the base carry a delta"""
    parameters: int
    """how many numbers are trained"""
    examples: int
    unit: str
    """what an example is: "picture", or "prompt" for a distillation and an alignment"""
    round: float
    """how many pictures an epoch has: the examples with their repeats and weights"""
    skipped: "tuple[Skipped, ...]"
    steps: int
    done: int
    """steps that a resumed run had taken; 0 for a new one"""
    remarks: tuple[str, ...] = ()
    """sentences about what the user may not have intended"""


@dataclass(frozen=True)
class Drawn:
    """Class pictures that were missing are being rendered: `done` of `total`."""

    done: int
    total: int


@dataclass(frozen=True)
class Encoded:
    """Pictures and captions are being encoded for the cache: `done` of `total`."""

    done: int
    total: int


@dataclass(frozen=True)
class Step:
    """One optimiser step was taken."""

    step: int
    """counted from 1"""
    steps: int
    loss: float
    """mean over the step's pictures, with min-SNR weights, plus the loss on class pictures; without
    the kind's penalty"""
    lr: float
    seconds: float
    """duration of the step, without samples and checkpoints"""
    measured: Mapping[str, float] = field(default_factory=dict)
    """other measurements by name: an alignment has the mean reward of its pictures, and their mean
    distance from the base's own pictures, both before the step"""


@dataclass(frozen=True)
class Sampled:
    """Samples were drawn after this step, and are in the run's folder."""

    step: int
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    step: int
    path: Path


@dataclass(frozen=True)
class Finished:
    """The adapter file is written."""

    path: Path
    adapter: "Adapter"
    steps: int
    seconds: float
    """training time, including the time before the run was resumed"""


Progress = Started | Drawn | Encoded | Step | Sampled | Saved | Finished
