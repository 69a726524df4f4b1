"""`PromptKind`, a kind that learns from prompts and the base itself, not from pictures."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from studio.errors import BadInput
from trainers.lora import LoRA

if TYPE_CHECKING:
    from studio.requests.recipe import Recipe

# Fields of a recipe about pictures, their captions and the text encoders. And `compile`: a compiled
# block would keep the deltas that are detached while the base works alone.
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
    """A low-rank change that is learned from prompts and from what the base draws for them."""

    unused: ClassVar[frozenset[str]] = UNUSED

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start == "eva":
            raise BadInput("eva needs pictures, and this kind has none: choose another start")

    def check_files(self) -> None:
        """Raise BadInput, before long work, for missing or unusable files of the options."""

    def evaluations(self, recipe: "Recipe") -> tuple[float, float]:
        """How often a step evaluates the UNet for one picture: with gradients, and without."""
        raise NotImplementedError
