"""Grids: all combinations of several axes' values, and tables that show how pictures differ.

shots = [Shot(**one) for one in combinations({"prompt": prompts, "seed": seeds})]
table = arrange(rows=[one.prompt for one in shots], columns=[f"seed {s.seed}" for s in shots])
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import TypeVar

from studio.requests.shot import Shot, method_name, method_options
from ui.shared.names import adapter_name

MASK = re.compile(r"data:[\w/;,+=]+")  # the picture that a region holds
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Table:
    """A table of numbered items.

    rows, columns: their labels. cells: for each row, the number of the item in each column, or None
    where there is none.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[int | None, ...], ...]

    @property
    def in_order(self) -> bool:
        """Whether the items fill the table row by row."""
        cells = [cell for row in self.cells for cell in row]
        return cells == list(range(len(cells)))


def combinations(axes: Mapping[K, Sequence[V]]) -> Iterator[dict[K, V]]:
    """Every combination of the axes' values; the last axis changes fastest."""
    return (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))


def differing(items: Sequence[Mapping[str, object]]) -> list[str]:
    """The fields whose values differ between items. Items without a field are ignored for it."""
    names = dict.fromkeys(name for item in items for name in item)
    return [name for name in names if len({repr(one[name]) for one in items if name in one}) > 1]


def arrange(rows: Sequence[str], columns: Sequence[str]) -> Table | None:
    """The table of items with these row and column labels; None if two items share a cell.

    rows, columns: the labels of each item.
    """
    places = {place: number for number, place in enumerate(zip(rows, columns, strict=True))}
    if len(places) < len(rows):
        return None
    down, across = tuple(dict.fromkeys(rows)), tuple(dict.fromkeys(columns))
    cells = tuple(tuple(places.get((row, column)) for column in across) for row in down)
    return Table(down, across, cells)


def one_row(columns: Sequence[str]) -> Table:
    """A table of a single row without a label."""
    return Table(("",), tuple(columns), (tuple(range(len(columns))),))


def listed(texts: Sequence[object]) -> str:
    """Regions or words to avoid, in one line. A region's mask is replaced by the word "mask"."""
    return ", ".join(MASK.sub("mask", str(one)) for one in texts)


def shot_fields(shot: Shot) -> dict[str, object]:
    """A shot's fields as a flat dict, with keys such as "adapter 1", "strength 1" and
    "switch interval".

    A shot without adapters has no "method", as there is nothing to mix.
    """
    plain = [one.name for one in fields(shot) if one.name not in ("adapters", "method")]
    flat: dict[str, object] = {name: getattr(shot, name) for name in plain}
    if shot.adapters:
        flat["method"] = method = method_name(shot.method, shot.regions)
        for name, value in method_options(shot.method).items():
            flat[f"{method} {name.replace('_', ' ')}"] = value
    for place, (file, strength) in enumerate(shot.adapters, start=1):
        flat[f"adapter {place}"] = adapter_name(str(file))
        flat[f"strength {place}"] = strength
    return flat
