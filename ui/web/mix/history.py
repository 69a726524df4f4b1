"""Which pictures of the history a page lists: the newest, favourites, or what a search finds."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from studio.errors import BadInput
from studio.requests.picture_file import read_recipe
from studio.workspace import PictureFile, Workspace, list_pictures, read_labels

HISTORY_PAGE = 24  # pictures listed at first; each "Show more" adds as many
LOOKED_AT = 5000  # the latest pictures, which a search looks through


@dataclass(frozen=True)
class Listing:
    """What a page lists of the history.

    length: most pictures. words: a picture's recipe must have all of them. picked: ids of the
    pictures that are selected; None while a click opens a picture.
    """

    length: int = HISTORY_PAGE
    words: str = ""
    favourites: bool = False
    picked: frozenset[str] | None = None


def picture_place(id: str) -> str:
    """The name by which `write_label` and `read_labels` know a picture of the history."""
    return f"pictures/{id}"


def favourites(space: Workspace) -> set[str]:
    """The ids of the pictures that are favourites."""
    start = picture_place("")
    labels = read_labels(space).items()
    return {place.removeprefix(start) for place, label in labels if label.favourite}


def find_pictures(space: Workspace, listing: Listing) -> tuple[list[PictureFile], bool]:
    """The pictures to list, the newest first, and whether there are more."""
    most, words = listing.length + 1, listing.words.lower().split()
    if not (words or listing.favourites):
        latest = list_pictures(space, limit=most)
        return latest[: listing.length], len(latest) == most
    marked, matches = favourites(space), list[PictureFile]()
    for picture in list_pictures(space, limit=LOOKED_AT):
        if listing.favourites and picture.id not in marked:
            continue
        text = _searched_text(picture.path, picture.created) if words else ""
        if all(word in text for word in words):
            matches.append(picture)
        if len(matches) == most:
            break
    return matches[: listing.length], len(matches) == most


@lru_cache(maxsize=LOOKED_AT)
def _searched_text(path: Path, modified: float) -> str:
    """The text in which a search looks: a picture's file name and recipe, in lower case.

    modified: part of the cache's key, so that a changed file is read anew.
    """
    try:
        recipe = read_recipe(path)
    except BadInput:
        return path.name.lower()
    adapters, method = recipe.get("adapters"), recipe.get("method")
    names = (
        [str(entry.get("name")) for entry in adapters if isinstance(entry, dict)]
        if isinstance(adapters, list)
        else []
    )
    mixed = str(method.get("name")) if isinstance(method, dict) and names else ""
    others = (str(recipe.get(name, "")) for name in ("prompt", "negative", "seed", "scheduler"))
    return " ".join([path.name, mixed, *names, *others]).lower()
