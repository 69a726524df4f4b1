"""A labelled contact sheet: rows of pictures, and at the left what they were learned from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

from ui.shared.grid import Table

__all__ = ["Group", "Row", "draw_sheet", "draw_table"]

CELL, THUMB = 168, 76  # pixels, square
GAP, MARGIN = 12, 36
LABEL = 170  # width of a row's label
PAPER, INK, PALE = (250, 249, 246), (32, 31, 36), (124, 121, 130)
FAILED = (232, 213, 211)  # where a picture is missing
HEADING = 19  # height of a heading's line
THUMBS_ACROSS = 3


@dataclass(frozen=True)
class Group:
    """Pictures that something was learned from. note: a line under the title."""

    title: str
    note: str
    pictures: Sequence[Image.Image]


@dataclass(frozen=True)
class Row:
    """One row of the sheet, a picture for each column."""

    label: str
    pictures: Sequence[Image.Image]


def draw_table(
    title: str, table: Table, pictures: Mapping[int, Image.Image], *, note: str = ""
) -> Image.Image:
    """A table's sheet. pictures: by the numbers in its cells; one that is missing is left blank."""
    blank, none = (Image.new("RGB", (CELL, CELL), colour) for colour in (FAILED, PAPER))
    rows = [
        Row(label, [none if at is None else pictures.get(at, blank) for at in cells])
        for label, cells in zip(table.rows, table.cells, strict=True)
    ]
    return draw_sheet(title, note=note, columns=table.columns, rows=rows)


def draw_sheet(
    title: str,
    *,
    note: str,
    columns: Sequence[str],
    rows: Sequence[Row],
    groups: Sequence[Group] = (),
) -> Image.Image:
    """The sheet as an RGB picture, as large as it needs to be.

    columns: headings over the rows' pictures, each in as many lines as it needs.
    """
    side = THUMBS_ACROSS * THUMB + (THUMBS_ACROSS - 1) * GAP // 2
    left = MARGIN + side + 2 * MARGIN if groups else MARGIN
    top = MARGIN + 92
    heads = [_heading(column) for column in columns]
    head = max(44, 6 + HEADING * max((text.count("\n") + 1 for text in heads), default=1))
    across = left + LABEL + len(columns) * (CELL + GAP) - GAP + MARGIN
    down = max(top + head + len(rows) * (CELL + GAP), top + sum(_height(group) for group in groups))
    sheet = Image.new("RGB", (across, down - GAP + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, INK, font=_font(30))
    pen.text((MARGIN, MARGIN + 44), note, PALE, font=_font(15))
    if groups:
        rule = left - MARGIN
        pen.line((rule, top, rule, sheet.height - MARGIN), (224, 221, 214), 1)
    _draw_groups(sheet, groups, top=top)
    for number, column in enumerate(heads):
        x = left + LABEL + number * (CELL + GAP)
        pen.text(
            (x + CELL / 2, top + head - 12),
            column,
            INK,
            font=_font(15),
            anchor="md",
            align="center",
        )
    for number, row in enumerate(rows):
        y = top + head + number * (CELL + GAP)
        label = _wrapped(row.label, LABEL - 2 * GAP, _font(14))
        pen.multiline_text((left, y + CELL / 2), label, INK, font=_font(14), anchor="lm", spacing=5)
        for at, picture in enumerate(row.pictures):
            sheet.paste(_fitted(picture, CELL), (left + LABEL + at * (CELL + GAP), y))
    return sheet


def _draw_groups(sheet: Image.Image, groups: Sequence[Group], *, top: int) -> None:
    pen = ImageDraw.Draw(sheet)
    for group in groups:
        pen.text((MARGIN, top), group.title, INK, font=_font(17))
        pen.text((MARGIN, top + 23), group.note, PALE, font=_font(13))
        for number, picture in enumerate(group.pictures):
            row, column = divmod(number, THUMBS_ACROSS)
            x = MARGIN + column * (THUMB + GAP // 2)
            sheet.paste(_fitted(picture, THUMB), (x, top + 48 + row * (THUMB + GAP // 2)))
        top += _height(group)


def _height(group: Group) -> int:
    return 48 + -(-len(group.pictures) // THUMBS_ACROSS) * (THUMB + GAP // 2) + 2 * GAP


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    return ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.BICUBIC)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _heading(column: str) -> str:
    """As wide as a picture; a line break is kept."""
    return "\n".join(_wrapped(line, CELL, _font(15)) for line in column.split("\n"))


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text in lines of at most this many pixels; a word that is longer goes on below."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines += _cut(word, width, font)
        else:
            lines[-1:] = _cut(longer, width, font)
    return "\n".join(lines)


def _cut(word: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """A word in pieces of at most this many pixels."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and font.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces
