"""Regions in Mix: lines that are typed, and parts that are painted."""

from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image, ImageColor

from studio.errors import BadInput
from studio.requests.regions import open_mask, read_region
from studio.requests.shot import Shot
from tests.ui.web.conftest import in_a_loop
from ui.web.mix.region_form import BRUSHES, SIDE, RegionForm


@pytest.fixture(scope="module")
def form() -> RegionForm:
    async def made() -> RegionForm:
        with gr.Blocks():
            return RegionForm()

    return in_a_loop(made)


def painted(*halves: int | None) -> dict[str, Any]:
    """A canvas with these numbers of colours from left to right."""
    pixels = np.zeros((SIDE, SIDE, 4), np.uint8)
    for at, number in enumerate(halves):
        if number is not None:
            columns = slice(at * SIDE // len(halves), (at + 1) * SIDE // len(halves))
            pixels[:, columns] = (*ImageColor.getrgb(BRUSHES[number - 1]), 255)
    picture = Image.fromarray(pixels)
    return {"background": None, "layers": [picture], "composite": picture}


def given(form: RegionForm, lines: str, canvas: object, masks: str = "drawn") -> dict[Any, Any]:
    return {form.masks: masks, form.lines: lines, form.canvas: canvas}


def test_lines_are_regions(form: RegionForm) -> None:
    typed = given(form, " 0,0,0.5,1: a cat \n\n0.5,0,1,1@2", None)
    assert form.read(typed) == ("0,0,0.5,1: a cat", "0.5,0,1,1@2")
    assert form.read(given(form, "", painted(None))) == ()


def test_colours_are_adapters(form: RegionForm) -> None:
    found = form.read(given(form, "", painted(3, 1)))
    assert [read_region(text).adapters for text in found] == [(1,), (3,)]
    left, right = (
        np.asarray(open_mask(read_region(text).mask or "")).mean(0) for text in reversed(found)
    )
    assert (left[:60] == 255).all() and (left[68:] == 0).all()
    assert (right[:60] == 0).all() and (right[68:] == 255).all()


def test_a_painted_line_has_its_prompt_and_comes_back(form: RegionForm) -> None:
    lines = "painted@2: a cat\n0.5,0,1,1: a dog"
    regions = form.read(given(form, lines, painted(1, None)))
    shot = Shot("a cat", regions=regions)
    shot.check()
    shown = form.update(shot)
    assert shown[form.lines] == lines
    assert form.read({form.masks: "drawn", **shown}) == regions
    assert form.update(replace(shot, regions=())) == {form.lines: "", form.canvas: None}


def test_what_is_no_region_is_refused(form: RegionForm) -> None:
    for lines, said in (
        ("hat.png: a hat", "'hat.png' in line 1 is neither a box"),
        ("0,0,1,1\npainted", "line 2 is painted, and nothing is in colour 2"),
        ("0,0,0.5,1: a cat", "colour 1 is painted, and line 1 does not say so: write painted"),
    ):
        with pytest.raises(BadInput, match=said):
            form.read(given(form, lines, painted(1)))


def test_what_is_found_needs_no_paint(form: RegionForm) -> None:
    assert form.read(given(form, "", painted(1), "attention")) == ()
    assert form.read(given(form, "found@2: a cat\n", painted(1), "attention")) == (
        "found@2: a cat",
    )


def test_boxes_side_by_side_are_suggested_until_something_is_said(form: RegionForm) -> None:
    def suggested(lines: str, count: int, canvas: object = None, masks: str = "drawn") -> object:
        return form.suggest(given(form, lines, canvas, masks), count).get(form.lines, lines)

    two = "0,0,0.5,1\n0.5,0,1,1"
    assert suggested("", 2) == two
    assert suggested(two, 3) == "0,0,0.33,1\n0.33,0,0.67,1\n0.67,0,1,1"
    assert suggested(two, 1) == "0,0,0.5,1"
    assert suggested(two, 0) == suggested(two, 2, painted(1, 2)) == ""
    assert suggested(two, 2, masks="attention") == ""
    assert suggested("0,0,0.4,1", 2) == "0,0,0.4,1"
    assert suggested("", 2, painted(1, None)) == ""
