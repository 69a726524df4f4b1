"""Choose where each adapter is drawn: by typed boxes, painted colours, or attention."""

from itertools import pairwise

import gradio as gr
import numpy as np
from PIL import Image, ImageColor

from compose.engine.schedule import COLOURS
from studio.errors import BadInput
from studio.requests.regions import Region, mask_address, open_mask, read_region, region_text
from studio.requests.shot import Shot
from ui.web.mix.mix_adapters import MOST
from ui.web.server.page import Components, Update, Values

PAINTED = "painted"  # the area of a line whose part is painted
SPECK = 0.01  # share of the canvas that is ignored: where strokes meet, their colours blend
SIDE = 384  # pixels of the canvas, which is stretched to the picture
BRUSHES = COLOURS[:MOST]


class RegionForm:
    """The widgets, laid out where this is created and shown for the method `regions`."""

    def __init__(self) -> None:
        with gr.Group(visible=False) as self.group:
            self.masks = gr.Radio(
                [("Drawn", "drawn"), ("Found by attention", "attention")], value="drawn",
                label="Where each adapter is", elem_id="mix-masks",
                info="Found: by its trigger words, which the prompt must say. Nothing needs to be "
                "written or painted then.",
            )  # fmt: skip
            self.lines = gr.Textbox(
                label="Regions", lines=2, max_lines=6, elem_id="mix-regions",
                info="A line for each adapter, in order: left, top, right and bottom from 0 to 1, "
                "then a prompt if it has its own. @2 behind the box: for adapter 2. To have it "
                "found, write the word found instead of a box.",
                placeholder="0,0,0.5,1: a red robot\n0.5,0,1,1: a blue cat",
            )  # fmt: skip
            with gr.Accordion(
                "Or paint them: the first colour is where adapter 1 is drawn", open=False
            ) as self.painting:
                self.canvas = gr.ImageEditor(
                    label="Canvas, stretched to the picture", show_label=False,
                    type="pil", image_mode="RGBA", format="png", sources=(), transforms=(),
                    layers=False, canvas_size=(SIDE, SIDE), fixed_canvas=True, height=SIDE + 60,
                    brush=gr.Brush(default_size=60, colors=list(BRUSHES), color_mode="fixed"),
                    buttons=[], elem_id="mix-canvas",
                )  # fmt: skip

    def inputs(self) -> Components:
        """The components whose values `read` takes, and that `update` changes."""
        return {self.masks, self.lines, self.canvas}

    def read(self, given: Values) -> tuple[str, ...]:
        """The regions: one for each line, or for each painted colour if there are no lines.

        Raises BadInput for a line that is no region, and for a painted colour that no line uses.
        """
        lines = [line for line in (given[self.lines] or "").splitlines() if line.strip()]
        if given[self.masks] == "attention":
            return tuple(line.strip() for line in lines)
        masks = _painted(given[self.canvas])
        if not lines:
            return tuple(
                region_text(Region(mask=mask_address(mask), adapters=(place,)))
                for place, mask in masks.items()
            )
        regions = tuple(_region(place, line, masks) for place, line in enumerate(lines, start=1))
        if unused := [place for place, mask in masks.items() if np.asarray(mask).mean() > SPECK]:
            raise BadInput(
                f"regions: colour {unused[0]} is painted, and line {unused[0]} does not say so: "
                f"write {PAINTED} there instead of the box, or erase the colour"
            )
        return regions

    def suggest(self, given: Values, count: int) -> Update:
        """Suggest boxes side by side for `count` adapters, unless the user has typed other ones.

        No boxes are needed where regions are painted or found by attention.
        """
        typed = (given[self.lines] or "").strip()
        if typed != side_by_side(len(typed.splitlines())):
            return {}
        unneeded = given[self.masks] == "attention" or _painted(given[self.canvas])
        return {self.lines: "" if unneeded else side_by_side(count)}

    def update(self, shot: Shot) -> Update:
        """Show a shot's regions. Regions with masks are painted on the canvas."""
        lines, canvas = [], np.zeros((SIDE, SIDE, 4), np.uint8)
        for place, text in enumerate(shot.regions, start=1):
            region = read_region(text)
            if region.mask is not None and place <= len(BRUSHES):
                inside = open_mask(region.mask).resize((SIDE, SIDE), Image.Resampling.NEAREST)
                colour = ImageColor.getrgb(BRUSHES[place - 1])
                canvas[np.asarray(inside) > 127] = (*colour, 255)
                text = region_text(Region(None, PAINTED, region.prompt, region.adapters))
            lines.append(text)
        picture = Image.fromarray(canvas) if canvas.any() else None
        painting = picture and {"background": None, "layers": [picture], "composite": picture}
        return {self.lines: "\n".join(lines), self.canvas: painting}


def side_by_side(count: int) -> str:
    """A line for each adapter: boxes of equal width from left to right."""
    edges = [f"{at / max(count, 2):.2g}" for at in range(count + 1)]
    return "\n".join(f"{left},0,{right},1" for left, right in pairwise(edges))


def _region(place: int, line: str, masks: dict[int, Image.Image]) -> str:
    """A line as a shot's region. place: the number of the line and of its colour.

    masks: the painted masks by colour; a mask that the line uses is taken out.
    """
    region = read_region(line)
    if region.mask is None:
        return line.strip()
    if region.mask != PAINTED:
        raise BadInput(
            f"regions: {region.mask!r} in line {place} is neither a box, such as 0,0,0.5,1, nor "
            f"the word {PAINTED}"
        )
    if place not in masks:
        raise BadInput(f"regions: line {place} is {PAINTED}, and nothing is in colour {place}")
    return region_text(Region(None, mask_address(masks.pop(place)), region.prompt, region.adapters))


def _painted(value: dict[str, Image.Image] | None) -> dict[int, Image.Image]:
    """A mask for each colour that is on the canvas, by the colour's number from 1."""
    picture = value.get("composite") if value else None
    if picture is None:
        return {}
    pixels = np.asarray(picture.convert("RGBA")).astype(np.int32)
    colours = np.array([ImageColor.getrgb(colour) for colour in BRUSHES])
    nearest = ((pixels[:, :, None, :3] - colours) ** 2).sum(-1).argmin(-1)
    nearest[pixels[..., 3] < 128] = -1
    masks = {place: nearest == place - 1 for place in range(1, len(BRUSHES) + 1)}
    return {place: Image.fromarray(inside) for place, inside in masks.items() if inside.any()}
