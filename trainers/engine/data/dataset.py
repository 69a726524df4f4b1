"""The pictures and the class pictures of a training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.dataset.folders import Sources
from studio.dataset.masks import with_masks
from studio.dataset.pictures import Example, Pictures, read_pictures, with_buckets
from studio.requests.recipe import Recipe
from trainers.engine.data.prior_preservation import Prior


@dataclass(frozen=True)
class Dataset:
    """The pictures of a training, and the class pictures of prior preservation."""

    pictures: Pictures
    prior: Prior | None
    class_pictures: Pictures
    """complete once the missing ones are drawn"""

    @property
    def examples(self) -> tuple[Example, ...]:
        """The pictures, then the class pictures; `Batch` has indices of this tuple."""
        return self.pictures.examples + self.class_pictures.examples

    def remarks(self) -> list[str]:
        """Sentences about what is left out of the folders."""
        return [*self.pictures.remarks(), *self.class_pictures.remarks()]


def prompts_dataset(prompts: Sequence[str], *, size: int) -> Dataset:
    """A dataset of prompts without pictures. size: side of the pictures to be drawn, in pixels."""
    square = size, size
    examples = tuple(Example(Path("prompt"), text, *square, bucket=square) for text in prompts)
    return Dataset(Pictures(examples), None, Pictures())


def read_dataset(
    sources: Sources | Pictures,
    *,
    trigger: str,
    recipe: Recipe,
    prior: Prior | None,
    size: int,
    step: int,
) -> Dataset:
    """Read the pictures, with their masks if the recipe asks for masks, and the class pictures.

    sources: Pictures that were read before are only put into the buckets of this size. Raises
    BadInput for what `read_pictures`, `with_masks` and `Prior.read` refuse.
    """
    buckets = recipe.buckets
    if isinstance(sources, Pictures):
        pictures = with_buckets(sources, size=size, step=step, buckets=buckets)
    else:
        pictures = read_pictures(sources, trigger=trigger, size=size, step=step, buckets=buckets)
        pictures = with_masks(pictures, recipe.masked) if recipe.masked else pictures
    return Dataset(pictures, prior, prior.read() if prior else Pictures())
