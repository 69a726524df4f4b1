"""A reward for what the judge of the sketch bases recognises."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from studio.errors import BadInput
from studio.requests.validation import option
from trainers.engine.from_prompts.alignment import Alignment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from studio.sketch import judge


@dataclass(frozen=True)
class Judge(Alignment):
    """What the judge of the sketch bases shall recognise in every picture."""

    factor: Literal["subject", "colour", "pattern", "place", "style", "worn", "held"] = option(
        "style", "what the judge looks at"
    )
    answer: str = option("ink drawing", "what the judge shall see")

    def __post_init__(self) -> None:
        from studio.sketch.scenes import FACTORS

        super().__post_init__()
        if self.answer not in FACTORS[self.factor]:
            raise BadInput(
                f"answer: the judge knows no {self.factor} {self.answer!r}; it knows "
                f"{', '.join(FACTORS[self.factor])}"
            )

    def score(self, pixels: "Tensor", prompts: "Sequence[str]") -> "Tensor":
        """The logarithm of the probability that the judge gives the answer."""
        from torch.nn.functional import adaptive_avg_pool2d

        from studio.sketch.judge import SIDE
        from studio.sketch.scenes import FACTORS

        resized = 2 * adaptive_avg_pool2d(pixels, SIDE) - 1
        logits = self._model.to(pixels.device)(resized)[self.factor]
        return logits.log_softmax(-1)[:, FACTORS[self.factor].index(self.answer)]

    @cached_property
    def _model(self) -> "judge.Judge":
        from studio.sketch.judge import load_judge

        return load_judge().requires_grad_(False)
