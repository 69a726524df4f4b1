"""`Distillation`, a kind that learns from the base itself, and what one step of it is given."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from studio.requests.validation import option
from trainers.engine.from_prompts.prompt_kind import PromptKind
from trainers.engine.kind import SMALL

if TYPE_CHECKING:
    from torch import Tensor

    from studio.adapters.speed import Sampling
    from studio.bases.base import Base
    from studio.bases.info import BaseInfo
    from studio.requests.recipe import Recipe
    from trainers.engine.from_prompts.trajectories import Points
    from trainers.engine.objective import Objective

Steps = Annotated[int, Ge(2), Le(1000)]


@dataclass(frozen=True, eq=False)
class Lesson:
    """What one loss is computed from.

    student: predicts noise or velocity, [B, 4, h, w] at timesteps [B], with gradients, for the
    prompts that the points belong to. point: the teacher's. diffusion: of the base.
    """

    point: "Points"
    student: "Callable[[Tensor, Tensor], Tensor]"
    diffusion: "Objective"


@dataclass(frozen=True)
class Distillation(PromptKind):
    """A low-rank change with which the base does in less time what it does without."""

    guidance: Annotated[float, Gt(1), Le(100)] = option(
        5.0, "guidance scale of the pictures that are to be matched"
    )
    teacher_steps: Steps = option(25, "steps of the base's own trajectories")

    shifted: ClassVar[bool] = True
    """whether every timestep is to come, not only those of one spacing"""
    rows: ClassVar[int] = 2
    """evaluations without gradients beside each that learns: the teacher's two, the student's"""
    leaps: ClassVar[bool] = False
    """whether a point is compared with any later one, not with the next"""

    @property
    def sampling(self) -> "Sampling":
        """How pictures are drawn with such an adapter."""
        raise NotImplementedError

    def loss(self, lesson: "Lesson") -> "Tensor":
        """The loss of a batch, a scalar with gradients."""
        raise NotImplementedError

    def evaluations(self, recipe: "Recipe") -> tuple[float, float]:
        """One of the student's learns."""
        return 1, self.rows

    def published(self, base: "Base | BaseInfo") -> dict[str, object]:
        """Ours, as nobody published one of adapters so small; on sketch as its trainings are."""
        if base.size <= SMALL:
            return {"steps": 120, "batch": 8, "lr": 1e-3, "schedule": "cosine"}
        return {"steps": 1000, "batch": 1, "accumulation": 8, "schedule": "cosine"}
