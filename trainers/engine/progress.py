"""What a training says while it runs: one frozen dataclass for each thing that can happen."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter
    from studio.dataset.pictures import Skipped

__all__ = ["Drawn", "Encoded", "Finished", "Progress", "Sampled", "Saved", "Started", "Step"]


@dataclass(frozen=True)
class Started:
    """Everything was checked and the run folder is written; drawing and encoding come next."""

    run: Path
    layers: int
    """how many layers of the base carry a delta"""
    parameters: int
    """how many numbers are trained"""
    examples: int
    round: float
    """how many pictures come in a round: as `examples`, but repeats and weights counted"""
    skipped: "tuple[Skipped, ...]"
    steps: int
    done: int
    """steps that a resumed run had behind it; 0 for a new one"""
    remarks: tuple[str, ...] = ()
    """what the user may not have meant, a sentence each"""


@dataclass(frozen=True)
class Drawn:
    """So many of the class pictures that were missing have been drawn and written."""

    done: int
    total: int


@dataclass(frozen=True)
class Encoded:
    """So many of the pictures and captions that do not change have been encoded."""

    done: int
    total: int


@dataclass(frozen=True)
class Step:
    """One optimiser step was taken."""

    step: int
    """counted from 1"""
    steps: int
    loss: float
    """mean over the step's pictures, min-SNR weighting included, and the prior's loss on top; a
    kind's own penalty left out"""
    lr: float
    seconds: float
    """what the step itself took"""


@dataclass(frozen=True)
class Sampled:
    """Sample pictures of this step lie in the run folder."""

    step: int
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Saved:
    """A checkpoint folder was written, whole."""

    step: int
    path: Path


@dataclass(frozen=True)
class Finished:
    """The adapter file is written."""

    path: Path
    adapter: "Adapter"
    steps: int
    seconds: float
    """training time, that of the run before it was resumed included"""


Progress = Started | Drawn | Encoded | Step | Sampled | Saved | Finished
