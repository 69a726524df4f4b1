"""The pictures and the class pictures of a training, or its prompts."""

from dataclasses import dataclass
from pathlib import Path

from studio.dataset.buckets import check_size
from studio.dataset.masks import with_masks
from studio.dataset.pictures import Example, Pictures, read_pictures, with_buckets
from studio.dataset.prompts import read_prompts
from studio.requests.recipe import Recipe
from studio.requests.training import TrainingRequest
from trainers.engine.data.prior_preservation import Prior
from trainers.engine.from_prompts.prompt_kind import PromptKind
from trainers.engine.kind import Kind


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


def read_dataset(
    request: TrainingRequest,
    kind: Kind,
    recipe: Recipe,
    prior: Prior | None,
    *,
    size: int,
    step: int,
    can_draw: bool,
    pictures: Pictures | None = None,
) -> Dataset:
    """Read what a request learns from: its prompts, or its pictures, masks and class pictures.

    size: side of a square picture, in pixels. step: sides of buckets are multiples of it. can_draw:
    whether missing class pictures can be drawn. pictures: the request's, where they were read
    before; they are only put into the buckets of this size. Raises BadInput for what cannot be
    read, for class pictures that are missing, and for a size that is no multiple of step.
    """
    check_size(size, step)
    if isinstance(kind, PromptKind):
        kind.check_files()
        prompts, square = read_prompts(request.prompts, request.base), (size, size)
        examples = tuple(Example(Path("prompt"), text, *square, bucket=square) for text in prompts)
        return Dataset(Pictures(examples), None, Pictures())
    trigger, buckets = request.trigger, recipe.buckets
    if pictures is not None:
        pictures = with_buckets(pictures, size=size, step=step, buckets=buckets)
    else:
        folders = request.pictures
        pictures = read_pictures(folders, trigger=trigger, size=size, step=step, buckets=buckets)
        pictures = with_masks(pictures, recipe.masked) if recipe.masked else pictures
    if prior is None:
        return Dataset(pictures, None, Pictures())
    present = prior.read()
    prior.check(present, can_draw=can_draw)
    return Dataset(pictures, prior, present)
