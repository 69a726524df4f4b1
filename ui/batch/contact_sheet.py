"""The contact sheet of a batch: a page to browse, and a picture of the whole sheet.

Rows are prompts and seeds, columns are everything else that differs. If most cells would be empty,
the pictures simply follow one another.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from PIL import Image

from studio.files import atomic_write, write_file
from studio.requests.shot import Shot, method_name, method_options
from ui.shared.grid import Table, arrange, differing, listed, shot_fields
from ui.shared.labelled_sheet import CELL, cropped, draw_table
from ui.shared.names import adapter_name

DOWN = ("prompt", "negative", "init_image", "mask", "seed")
MIX = ("adapters", "method")  # in the first lines of a heading
PICTURES_IN_ROW = 8  # if pictures simply follow one another
MOST_ROWS, MOST_COLUMNS = 40, 24  # of one picture; larger tables are split into several


@dataclass(frozen=True)
class _Cell:
    """A shot on the page: its picture's file, or why it failed, and a caption."""

    file: str
    error: str
    caption: str


def write_sheets(
    out: Path, title: str, shots: Sequence[Shot], names: Sequence[str], failed: Mapping[int, str]
) -> None:
    """Write sheet.html and sheet.png; larger tables continue on sheet-2.png and so on.

    names: the shots' files in `out`. failed: the reasons of failed shots, by number.
    """
    table, captions = _table(shots)
    cells = [
        _Cell(name, failed.get(number, ""), caption)
        for number, (name, caption) in enumerate(zip(names, captions, strict=True))
    ]
    write_file(out / "sheet.html", _page(title, table, cells).encode())
    files = {number: out / name for number, name in enumerate(names) if number not in failed}
    _draw(out, title, table, files)


def _table(shots: Sequence[Shot]) -> tuple[Table, Sequence[str]]:
    """The table of the shots, and a caption for each shot if the table has no full labels."""
    differ = differing([shot_fields(shot) for shot in shots])
    rows = [_words(shot, [one for one in DOWN if one in differ] or ["prompt"]) for shot in shots]
    columns = [_heading(shot, differ) for shot in shots]
    table = arrange(rows, columns)
    # `arrange` gives None for shots that would share a cell, as with other options of one method.
    if table and len(table.rows) * len(table.columns) <= 2 * len(shots):
        return table, [""] * len(shots)
    captions = [
        "\n".join(filter(None, (row, column, _options(shot))))
        for row, column, shot in zip(rows, columns, shots, strict=True)
    ]
    return _sequence(len(shots)), captions


def _sequence(count: int) -> Table:
    """A table of consecutive items; a row's label is the number of its first item."""
    starts = range(0, count, PICTURES_IN_ROW)
    cells = tuple(tuple(range(at, min(at + PICTURES_IN_ROW, count))) for at in starts)
    return Table(tuple(f"{at + 1}" for at in starts), ("",) * PICTURES_IN_ROW, cells)


def _words(shot: Shot, names: Sequence[str]) -> str:
    """The values of these fields in words, such as "a cat, seed 2"."""
    values = [(name, getattr(shot, name)) for name in names]
    texts = [(name, listed(one) if isinstance(one, tuple) else one) for name, one in values]
    return ", ".join(
        str(text) if name == "prompt" else f"{name} {text}"
        for name, text in texts
        if text not in (None, "")
    )


def _heading(shot: Shot, differ: Sequence[str]) -> str:
    """A column's heading: "robot 0.8 + ink", then lines with the method and with other fields."""
    words = [adapter_name(str(file)) + _strength(by) for file, by in shot.adapters]
    lines = [" + ".join(words) or "no adapter"]
    if shot.adapters and "method" in differ:
        lines.append(method_name(shot.method, shot.regions))
    others = [one.name for one in fields(Shot) if one.name not in (*DOWN, *MIX)]
    lines.append(_words(shot, [name for name in others if name in differ]))
    return "\n".join(filter(None, lines))


def _strength(strength: float) -> str:
    return "" if strength == 1 else f" {strength:g}"


def _options(shot: Shot) -> str:
    """The method's options that differ from their defaults, such as "combination ties"."""
    if shot.method is None:
        return ""
    defaults = method_options(type(shot.method)())
    given = method_options(shot.method).items()
    return ", ".join(f"{name} {value}" for name, value in given if value != defaults[name])


def _page(title: str, table: Table, cells: Sequence[_Cell]) -> str:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    rows = [
        (label, [None if at is None else cells[at] for at in row])
        for label, row in zip(table.rows, table.cells, strict=True)
    ]
    page = environment.get_template("sheet.html")
    return page.render(title=title, columns=table.columns, rows=rows)


def _draw(out: Path, title: str, table: Table, files: Mapping[int, Path]) -> None:
    parts = list(_parts(table))
    for number, part in enumerate(parts, start=1):
        numbers = (cell for row in part.cells for cell in row if cell is not None)
        pictures = {at: _open(files[at]) for at in numbers if at in files}
        note = f"page {number} of {len(parts)}" if len(parts) > 1 else ""
        name = "sheet.png" if number == 1 else f"sheet-{number}.png"
        with atomic_write(out / name) as file:
            draw_table(title, part, pictures, note=note).save(file, "PNG")


def _parts(table: Table) -> Iterator[Table]:
    """The table, split into parts that fit on one picture each."""
    for y in range(0, len(table.rows), MOST_ROWS):
        for x in range(0, len(table.columns), MOST_COLUMNS):
            cells = [row[x : x + MOST_COLUMNS] for row in table.cells[y : y + MOST_ROWS]]
            columns = table.columns[x : x + MOST_COLUMNS]
            yield Table(table.rows[y : y + MOST_ROWS], columns, tuple(cells))


def _open(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        return cropped(picture, CELL)  # cropped at once, so that a whole sheet fits in memory
