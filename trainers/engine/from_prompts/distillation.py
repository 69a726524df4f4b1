"""`Distillation`, a kind that learns from the base itself, and `Lesson`, the input of its loss."""

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
    """The input of a distillation's loss.

    student: the base with the adapter. It predicts noise or velocity from latents [B, 4, h, w] and
    timesteps [B], with gradients, for the prompts of `point`. point: points of the teacher's
    trajectories. diffusion: the base's noise schedule.
    """

    point: "Points"
    student: "Callable[[Tensor, Tensor], Tensor]"
    diffusion: "Objective"


@dataclass(frozen=True)
class Distillation(PromptKind):
    """A low-rank change with which the base draws the same pictures in less time."""

    guidance: Annotated[float, Gt(1), Le(100)] = option(
        5.0, "guidance scale of the pictures to match"
    )
    teacher_steps: Steps = option(25, "denoising steps of the base's own trajectories")

    shifted: ClassVar[bool] = True
    """whether all timesteps are learned, not only those of one spacing"""
    rows: ClassVar[int] = 2
    """for each evaluation with gradients, the number of others: two of the teacher, and any of the
    student that have no gradients"""
    leaps: ClassVar[bool] = False
    """whether a point is compared with any later point, not only with the next"""

    @property
    def sampling(self) -> "Sampling":
        """How to draw with such an adapter."""
        raise NotImplementedError

    def loss(self, lesson: "Lesson") -> "Tensor":
        """The loss of a batch, a scalar with gradients."""
        raise NotImplementedError

    def evaluations(self, recipe: "Recipe") -> tuple[float, float]:
        """As in `PromptKind`: one of the student with gradients, and `rows` without."""
        return 1, self.rows

    def published(self, base: "Base | BaseInfo") -> dict[str, object]:
        """Our own settings: nobody has published any for such small adapters."""
        if base.size <= SMALL:
            return {"steps": 120, "batch": 8, "lr": 1e-3, "schedule": "cosine"}
        return {"steps": 1000, "batch": 1, "accumulation": 8, "schedule": "cosine"}
