"""The stage that draws the designs anew from the artists' packages."""

import io
from unittest import mock

import numpy as np
import pytest
from PIL import Image, ImageDraw

from studio.assets import asset
from studio.errors import BadInput
from studio.sketch import fetch_art
from studio.sketch.art import design_rows


def test_every_design_has_a_line():
    lines = (asset("art") / "designs.txt").read_text(encoding="utf-8").splitlines()
    roles = {"*": "worn", "+": "held"}
    names = [line.split("=")[0] for line in lines]
    assert [(roles.get(name[0], "subject"), name.lstrip("*+")) for name in names] == list(
        design_rows()
    )


def test_a_design_fills_its_tile_and_stands_on_the_bottom_edge():
    drawing = Image.new("RGBA", (256, 256))
    ImageDraw.Draw(drawing).rectangle((20, 40, 219, 139), fill=(200, 100, 0, 128))  # 200 x 100 px
    tile = np.asarray(fetch_art._tile(drawing))
    rows, columns = np.flatnonzero(tile[..., 3].any(1)), np.flatnonzero(tile[..., 3].any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (56, 111, 0, 111)
    assert tile[80, 50].tolist() == [100, 50, 0, 128]  # colours times alpha


def test_a_package_with_another_checksum_is_refused_and_not_kept(tmp_path):
    with (
        mock.patch("urllib.request.urlopen", return_value=io.BytesIO(b"something else")),
        pytest.raises(BadInput, match=r"noto 1.2.9 .* is not the package"),
    ):
        fetch_art._package(tmp_path, *fetch_art.PACKAGES["noto"])
    assert not list(tmp_path.iterdir())
