"""`PromptKind`, a kind that learns from the base itself, with prompts in the place of pictures."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from studio.errors import BadInput
from trainers.lora import LoRA

if TYPE_CHECKING:
    from studio.requests.recipe import Recipe

# Of a recipe, what is about pictures, captions of them, and the text encoders. Nor are blocks
# compiled: a graph would keep the changes that are taken off for what the base does alone.
UNUSED = frozenset(
    (
        "compile",
        *("text_encoders", "text_lr", "new_tokens", "token", "token_init", "token_lr", "min_snr"),
        *("noise_offset", "input_perturbation", "caption_dropout", "flip", "crops", "buckets"),
        *("background", "masked", "unmasked_weight", "prior_class", "prior_count", "prior_weight"),
    )
)


@dataclass(frozen=True)
class PromptKind(LoRA):
    """A low-rank change that is learned from prompts and what the base makes of them."""

    unused: ClassVar[frozenset[str]] = UNUSED

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start == "eva":
            raise BadInput("eva looks at pictures, and here are none: choose another start")

    def check_files(self) -> None:
        """Raise BadInput, before long work, for files that are missing or are something else."""

    def evaluations(self, recipe: "Recipe") -> tuple[float, float]:
        """How often a step evaluates the UNet for each picture, with gradients and without."""
        raise NotImplementedError
