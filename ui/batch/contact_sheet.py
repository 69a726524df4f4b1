"""The contact sheet of a batch: a page to browse in, and a picture of it all.

Prompts and seeds go down, everything else that differs goes across; where that would leave most
places empty, the pictures stand one after another.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from studio.files import atomic_write, write_file
from studio.requests.shot import Shot, method_name, method_options
from ui.batch.manifest import Planned
from ui.shared.labelled_sheet import CELL, Row, draw_sheet
from ui.shared.names import adapter_name

__all__ = ["write_sheets"]

DOWN = ("prompt", "negative", "init_image", "seed")
ACROSS = ("base", "denoise", "width", "height", "steps", "guidance", "scheduler")
IN_A_ROW = 8  # pictures that follow one another
MOST_ROWS, MOST_COLUMNS = 40, 24  # of a picture; what is more has a page of its own
STYLE = """
body{font:14px system-ui,sans-serif;margin:2rem;background:#faf9f6;color:#201f24}
table{border-collapse:separate;border-spacing:8px}
th{font-weight:500;text-align:left;max-width:14rem;vertical-align:middle}
thead th{vertical-align:bottom;position:sticky;top:0;background:#faf9f6}
img{display:block;width:12rem;height:auto;border-radius:3px}
.none{width:12rem;color:#a33}
td{vertical-align:top}
p{width:12rem;margin:.3rem 0 0;font-size:12px;overflow-wrap:anywhere;white-space:pre-line}
"""
Cell = tuple[str, str, str]  # the file, or "" and why there is none; what is said below it


def write_sheets(
    out: Path,
    title: str,
    planned: Sequence[Planned],
    names: Sequence[str],
    failed: Mapping[int, str],
) -> None:
    """Write sheet.html and sheet.png (sheet-2.png and on, where one is not enough)."""
    shots = [one.shot for one in planned]
    cells = [
        ("", failed[at], "") if at in failed else (name, "", "") for at, name in enumerate(names)
    ]
    columns, rows = _layout(shots, cells)
    write_file(out / "sheet.html", _page(title, columns, rows).encode())
    _draw(out, title, columns, rows)


def _layout(
    shots: Sequence[Shot], cells: Sequence[Cell]
) -> tuple[list[str], list[tuple[str, list[Cell | None]]]]:
    """Headings, and rows of a label and a cell or nothing for each heading."""
    down = [name for name in DOWN if _differs(shots, name)] or ["prompt"]
    across = [name for name in ACROSS if _differs(shots, name)]
    labels = [_said(shot, down) for shot in shots]
    named = len({method_name(shot.method) for shot in shots if shot.adapters}) > 1
    mixes = [_mix(shot, named=named) for shot in shots]
    heads = [
        "\n".join(filter(None, (mix, _said(shot, across))))
        for mix, shot in zip(mixes, shots, strict=True)
    ]
    columns, rows = list(dict.fromkeys(heads)), list(dict.fromkeys(labels))
    places = dict(zip(zip(labels, heads, strict=True), cells, strict=True))
    # Shots that differ in a method's options alone would have one place.
    if len(places) < len(shots) or len(columns) * len(rows) > 2 * len(shots):
        said = (
            "\n".join(filter(None, (label, head, _options(shot))))
            for label, head, shot in zip(labels, heads, shots, strict=True)
        )
        told = [(name, why, words) for (name, why, _), words in zip(cells, said, strict=True)]
        parts = range(0, len(told), IN_A_ROW)
        each = [list[Cell | None](told[at : at + IN_A_ROW]) for at in parts]
        return [""] * IN_A_ROW, [(f"{at + 1}", row) for at, row in zip(parts, each, strict=True)]
    return columns, [(row, [places.get((row, column)) for column in columns]) for row in rows]


def _differs(shots: Sequence[Shot], name: str) -> bool:
    return len({getattr(shot, name) for shot in shots}) > 1


def _said(shot: Shot, names: Sequence[str]) -> str:
    values = [(name, getattr(shot, name)) for name in names]
    return ", ".join(
        str(value) if name == "prompt" else f"{name} {value}"
        for name, value in values
        if value not in (None, "")
    )


def _mix(shot: Shot, *, named: bool) -> str:
    """Such as "robot 0.8 + ink", and on a line below the method, where there are several."""
    if not shot.adapters:
        return "no adapter"
    words = [adapter_name(str(one)) + ("" if by == 1 else f" {by:g}") for one, by in shot.adapters]
    method = f"\n{method_name(shot.method)}" if named else ""
    return " + ".join(words) + method


def _options(shot: Shot) -> str:
    """What was asked of its method and is not what it does anyway: "combination ties"."""
    if shot.method is None:
        return ""
    usual = method_options(type(shot.method)())
    asked = method_options(shot.method).items()
    return ", ".join(f"{name} {value}" for name, value in asked if value != usual[name])


def _page(
    title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell | None]]]
) -> str:
    heads = "".join(f"<th>{escape(column).replace(chr(10), '<br>')}</th>" for column in columns)
    lines = "".join(
        f"<tr><th>{escape(label)}</th>{''.join(map(_place, cells))}</tr>\n" for label, cells in rows
    )
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style>\n<h1>{escape(title)}</h1>\n"
        f"<table><thead><tr><th></th>{heads}</tr></thead>\n{lines}</table></html>\n"
    )


def _place(cell: Cell | None) -> str:
    if cell is None:
        return "<td></td>"
    name, why, said = cell
    below = f"<p>{escape(said)}</p>" if said else ""
    if not name:
        return f'<td class="none">{escape(why)}{below}</td>'
    link = escape(quote(name))
    picture = f'<a href="{link}"><img loading="lazy" src="{link}" alt="{escape(name)}"></a>'
    return f"<td>{picture}{below}</td>"


def _draw(
    out: Path,
    title: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Cell | None]]],
) -> None:
    pages = [
        (columns[x : x + MOST_COLUMNS], [(one, row[x : x + MOST_COLUMNS]) for one, row in part])
        for part in (rows[y : y + MOST_ROWS] for y in range(0, len(rows), MOST_ROWS))
        for x in range(0, len(columns), MOST_COLUMNS)
    ]
    for number, (heads, part) in enumerate(pages, start=1):
        drawn = [Row(label, [_picture(out, cell) for cell in cells]) for label, cells in part]
        note = f"page {number} of {len(pages)}" if len(pages) > 1 else ""
        sheet = draw_sheet(title, note=note, columns=heads, rows=drawn, groups=())
        name = "sheet.png" if number == 1 else f"sheet-{number}.png"
        with atomic_write(out / name) as file:
            sheet.save(file, "PNG")


def _picture(out: Path, cell: Cell | None) -> Image.Image:
    if cell is None or not cell[0]:
        return Image.new("RGB", (CELL, CELL), "#faf9f6" if cell is None else "#e8d5d3")
    with Image.open(out / cell[0]) as picture:
        return picture.convert("RGB")
