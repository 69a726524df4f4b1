"""The contact sheet."""

import numpy as np
import pytest
from PIL import Image, ImageChops

from ui.shared.labelled_sheet import CELL, Group, Row, draw_sheet


def test_every_picture_is_on_the_sheet() -> None:
    colours = [(200, 30 * n, 10) for n in range(7)]
    pictures = [Image.new("RGB", (64, 64), colour) for colour in colours]
    sheet = draw_sheet(
        "Title",
        note="note",
        columns=("one", "two"),
        rows=[Row("a long label of many words", pictures[:2]), Row("b", pictures[2:4])],
        groups=[Group("Learned", "from three", pictures[4:])],
    )
    seen = np.asarray(sheet).reshape(-1, 3)
    areas = [int((seen == colour).all(axis=1).sum()) for colour in colours]
    assert areas[:4] == [CELL * CELL] * 4
    assert all(0 < area < CELL * CELL for area in areas[4:])


def test_a_long_label_stays_in_its_row() -> None:
    picture = Image.new("RGB", (CELL, CELL))
    blank, sheet = (
        draw_sheet("", note="", columns=[""], rows=[Row(label, [picture]) for label in labels])
        for labels in (["", "", ""], ["", "a very long prompt " * 40 + "seed 7", ""])
    )
    changed = ImageChops.difference(sheet, blank).getbbox()
    assert changed and changed[3] - changed[1] <= CELL


@pytest.mark.parametrize("heading", ["krona-robot 0.5 + blora:content\nmerge", "robot" * 12])
def test_no_heading_runs_into_the_next(heading: str) -> None:
    """Every heading's ink stays over its own picture."""
    picture = Image.new("RGB", (64, 64), (200, 30, 10))
    for columns in ((heading, ""), ("", heading)):
        drawn = draw_sheet("", note="", columns=columns, rows=[Row("", [picture] * 2)], groups=())
        sheet = np.asarray(drawn).astype(int)
        red = (sheet == (200, 30, 10)).all(axis=2)
        top, inked = int(red.any(axis=1).argmax()), sheet.sum(axis=2) < 600
        middle = drawn.width - 36 - CELL - 6  # between the two pictures
        left, right = inked[:top, :middle].any(), inked[:top, middle:].any()
        assert (left, right) == (columns[0] == heading, columns[1] == heading)
        assert not inked[top - 3 : top].any()
