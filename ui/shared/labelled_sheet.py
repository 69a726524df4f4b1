"""Contact sheets with labels: rows of pictures and, on the left, the pictures trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

from ui.shared.grid import Table

CELL, THUMB = 168, 76  # pixels, square
GAP, MARGIN = 12, 36
TOP = MARGIN + 92  # below title and note
LABEL = 170  # width of a row's label
MOST_LINES = 7  # lines of a row's label, which are as high as a picture
PAPER, INK, PALE = (250, 249, 246), (32, 31, 36), (124, 121, 130)
FAILED = (232, 213, 211)  # where a picture is missing
HEADING = 19  # height of a heading's line
THUMBS_ACROSS = 3
THUMB_STEP = THUMB + GAP // 2
THUMBS_WIDTH = THUMBS_ACROSS * THUMB + (THUMBS_ACROSS - 1) * GAP // 2

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Group:
    """The pictures that an adapter was trained on. note: a line under the title."""

    title: str
    note: str
    pictures: Sequence[Image.Image]


@dataclass(frozen=True)
class Row:
    """A row of the sheet: one picture for each column."""

    label: str
    pictures: Sequence[Image.Image]


def draw_table(
    title: str, table: Table, pictures: Mapping[int, Image.Image], *, note: str = ""
) -> Image.Image:
    """A table as a sheet. pictures: by the numbers in the cells; a missing picture stays blank."""
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

    columns: headings over the pictures; long ones are wrapped.
    """
    headings = [_wrap_heading(column) for column in columns]
    lines = max((text.count("\n") + 1 for text in headings), default=1)
    left = 3 * MARGIN + THUMBS_WIDTH if groups else MARGIN
    first = TOP + max(44, 6 + HEADING * lines)  # upper edge of the first row
    width = left + LABEL + len(columns) * (CELL + GAP) - GAP + MARGIN
    end = max(first + len(rows) * (CELL + GAP), TOP + sum(_height(group) for group in groups))
    sheet = Image.new("RGB", (width, end - GAP + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, INK, font=_font(30))
    pen.text((MARGIN, MARGIN + 44), note, PALE, font=_font(15))
    if groups:
        line = left - MARGIN
        pen.line((line, TOP, line, sheet.height - MARGIN), (224, 221, 214), 1)
        _draw_groups(sheet, groups)
    for number, heading in enumerate(headings):
        middle = left + LABEL + number * (CELL + GAP) + CELL / 2
        place = (middle, first - 12)
        pen.text(place, heading, INK, font=_font(15), anchor="md", align="center")
    for number, row in enumerate(rows):
        _draw_row(sheet, row, left=left, top=first + number * (CELL + GAP))
    return sheet


def _draw_row(sheet: Image.Image, row: Row, *, left: int, top: int) -> None:
    lines = _wrap(row.label, LABEL - 2 * GAP, _font(14)).split("\n")
    if len(lines) > MOST_LINES:  # rows often differ at their labels' ends
        lines = [*lines[: MOST_LINES - 3], "...", *lines[-2:]]
    label, place = "\n".join(lines), (left, top + CELL / 2)
    ImageDraw.Draw(sheet).multiline_text(place, label, INK, font=_font(14), anchor="lm", spacing=5)
    for number, picture in enumerate(row.pictures):
        sheet.paste(cropped(picture, CELL), (left + LABEL + number * (CELL + GAP), top))


def _draw_groups(sheet: Image.Image, groups: Sequence[Group]) -> None:
    pen, top = ImageDraw.Draw(sheet), TOP
    for group in groups:
        pen.text((MARGIN, top), group.title, INK, font=_font(17))
        pen.text((MARGIN, top + 23), group.note, PALE, font=_font(13))
        for number, picture in enumerate(group.pictures):
            row, column = divmod(number, THUMBS_ACROSS)
            place = (MARGIN + column * THUMB_STEP, top + 48 + row * THUMB_STEP)
            sheet.paste(cropped(picture, THUMB), place)
        top += _height(group)


def _height(group: Group) -> int:
    return 48 + -(-len(group.pictures) // THUMBS_ACROSS) * THUMB_STEP + 2 * GAP


def cropped(picture: Image.Image, side: int) -> Image.Image:
    """The middle of a picture as a square in RGB. side: in pixels."""
    return ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.BICUBIC)


def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _wrap_heading(column: str) -> str:
    """A heading, wrapped to the width of a picture; its own line breaks are kept."""
    return "\n".join(_wrap(line, CELL, _font(15)) for line in column.split("\n"))


# Pillow's own ImageText.wrap refuses a word that is longer than a line.
def _wrap(text: str, width: int, font: Font) -> str:
    """The text, wrapped to a width in pixels. Longer words are split."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines += _split(word, width, font)
        else:
            lines[-1:] = _split(longer, width, font)
    return "\n".join(lines)


def _split(word: str, width: int, font: Font) -> list[str]:
    """A word in pieces of at most this many pixels."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and font.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces
