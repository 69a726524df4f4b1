"""What a training learns from: its pictures, read once, and the class pictures beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from studio.dataset.folders import Folder, Sources, parse_folders
from studio.dataset.masks import with_masks
from studio.dataset.pictures import Example, Pictures, read_pictures
from studio.requests.recipe import Recipe
from trainers.engine.data.prior_preservation import Prior
from trainers.engine.recipe.toml_text import Table

__all__ = ["Dataset", "folders_in", "folders_table", "read_dataset"]


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


def read_dataset(
    sources: Sources, *, trigger: str, recipe: Recipe, prior: Prior | None, size: int, step: int
) -> Dataset:
    """Read the pictures, each with its mask where the recipe asks for masks, and the prior's.

    Raises BadInput for what `read_pictures`, `with_masks` and `Prior.read` refuse.
    """
    found = read_pictures(sources, trigger=trigger, size=size, step=step, buckets=recipe.buckets)
    found = with_masks(found, recipe.masked) if recipe.masked else found
    return Dataset(found, prior, prior.read() if prior else Pictures())


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
