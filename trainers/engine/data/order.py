"""What a training learns from: folders, as recipe.toml keeps them, and the order of pictures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import repeat
from typing import TYPE_CHECKING

from studio.dataset.folders import Folder, Sources, parse_folders
from studio.dataset.masks import with_masks
from studio.dataset.pictures import Example, Pictures, read_pictures
from studio.files import file_sha256
from studio.requests.recipe import Recipe
from trainers.engine.objective import batches
from trainers.engine.recipe.toml_text import Table

if TYPE_CHECKING:
    from trainers.engine.setup import Job

__all__ = ["Batch", "contents", "folders_in", "folders_table", "planned", "read"]


@dataclass(frozen=True)
class Batch:
    """Numbers of pictures among `Job.examples`, one bucket's each, that a loss is the mean of."""

    pictures: tuple[int, ...]
    of_class: tuple[int, ...] = ()
    """those of the prior, which go through the base by themselves; none without one"""


def read(sources: Sources, *, trigger: str, recipe: Recipe, size: int, step: int) -> Pictures:
    """The pictures of a training, each with its mask where the recipe asks for masks.

    Raises BadInput for what `read_pictures` and `with_masks` refuse.
    """
    found = read_pictures(sources, trigger=trigger, size=size, step=step, buckets=recipe.buckets)
    return with_masks(found, recipe.masked) if recipe.masked else found


def folders_table(folders: Sequence[Folder]) -> Table:
    """The folders as recipe.toml has them: a path, or lists of paths and of weights."""
    paths = [str(folder.path.resolve()) for folder in folders]
    weights = [folder.weight for folder in folders]
    return {"pictures": paths[0]} if weights == [1] else {"pictures": paths, "weights": weights}


def folders_in(tables: Mapping) -> tuple[Folder, ...]:
    """The inverse of `folders_table`."""
    paths = tables["pictures"]
    if isinstance(paths, str):
        return parse_folders(paths)
    weights = tables.get("weights", [1.0] * len(paths))
    return parse_folders(list(zip(paths, weights, strict=True)))


def contents(examples: Sequence[Example], digests: Sequence[str]) -> str:
    """One SHA-256 for pictures, their captions, sizes, weights and masks.

    digests: of each example's file.
    """
    lines = []
    for example, sum_ in zip(examples, digests, strict=True):
        line = f"{example.path.name} {sum_} {example.bucket} {example.caption}"
        line += f" x {example.weight}" if example.weight != 1 else ""
        lines.append(line + (f" mask {file_sha256(example.mask)}" if example.mask else ""))
    return sha256("\n".join(lines).encode()).hexdigest()


def planned(job: "Job") -> Iterator[Batch]:
    """The batches of a training, without end."""
    own, classes = job.pictures.examples, job.classes.examples
    size, seed = job.recipe.batch, job.recipe.seed
    pictures = batches(_buckets(own), batch=size, seed=seed, weights=[e.weight for e in own])
    of_class: Iterator[tuple[int, ...]] = repeat(())
    if classes:
        weights = [example.weight for example in classes]
        numbers = batches(
            _buckets(classes), batch=size, seed=seed, weights=weights, order="prior order"
        )
        of_class = (tuple(len(own) + n for n in batch) for batch in numbers)
    return map(Batch, pictures, of_class)


def _buckets(examples: Sequence[Example]) -> list[tuple[int, int]]:
    return [example.bucket for example in examples]
