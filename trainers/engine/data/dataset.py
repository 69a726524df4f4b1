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
    """all of them once those missing are rendered"""

    @property
    def examples(self) -> tuple[Example, ...]:
        """The pictures and behind them the class pictures, as batches number them."""
        return self.pictures.examples + self.class_pictures.examples

    def remarks(self) -> list[str]:
        """What is left out of the folders, a line for each kind."""
        return [*self.pictures.remarks(), *self.class_pictures.remarks()]


def prompts_dataset(prompts: Sequence[str], *, size: int) -> Dataset:
    """Prompts in the place of pictures, each with the size that the base is to draw."""
    square = size, size
    examples = tuple(Example(Path("prompt"), one, *square, bucket=square) for one in prompts)
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
    """Read the pictures, each with its mask where the recipe asks for masks, and the prior's.

    Pictures that were read before are only put into the buckets of this size. Raises BadInput for
    what `read_pictures`, `with_masks` and `Prior.read` refuse.
    """
    buckets = recipe.buckets
    if isinstance(sources, Pictures):
        found = with_buckets(sources, size=size, step=step, buckets=buckets)
    else:
        found = read_pictures(sources, trigger=trigger, size=size, step=step, buckets=buckets)
        found = with_masks(found, recipe.masked) if recipe.masked else found
    return Dataset(found, prior, prior.read() if prior else Pictures())
