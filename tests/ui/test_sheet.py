"""The contact sheet."""

import numpy as np
from PIL import Image

from ui._sheet import CELL, Group, Row, draw_sheet


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
