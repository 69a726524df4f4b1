"""What all styles draw with: fills and outlines on a canvas finer than the picture."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from studio.sketch.world.shapes import RGB

FINE = 4  # pictures are drawn this many times larger, then averaged down
DARK: RGB = (28, 24, 34)
PAPER: RGB = (247, 241, 228)

Paint = Callable[["Part"], RGB | None]


@dataclass(frozen=True)
class Part:
    """A shape with its colours settled.

    points: float [N, 2], fraction of the frame; width: fraction of the frame, 0 for an outline.
    ink: what a style that draws only lines draws it in; small: too small for an outline.
    """

    points: np.ndarray
    fill: RGB
    ink: RGB
    width: float
    small: bool
    solid: bool  # dark details stay filled in line styles

    @property
    def thin(self) -> bool:
        """A stroke too thin to have two edges."""
        return 0 < self.width <= 0.045


@dataclass(frozen=True)
class Layers:
    """A scene as parts, back to front; ``pale`` says that the subject's colour is a light one."""

    back: list[Part]
    front: list[Part]
    pale: bool


def blank(size: int, paint: RGB = PAPER, *, fine: int = FINE) -> Image.Image:
    return Image.new("RGB", (size * fine, size * fine), paint)


def paint(
    canvas: Image.Image,
    parts: list[Part],
    *,
    fill: Paint,
    edge: Paint | None = None,
    width: float = 0,
) -> Image.Image:
    """Draw the parts in order: filled, then edged with a line of ``width`` (of the frame)."""
    pen, scale = ImageDraw.Draw(canvas), canvas.width
    thick = max(1, round(width * scale))
    for part in parts:
        xy = (part.points * scale).ravel().tolist()
        inside = fill(part)
        if part.width:
            line = None if part.thin or edge is None else edge(part)
            if line is not None:
                _stroke(pen, xy, paint=line, width=(part.width + width / 2) * scale)
            bare = part.width - (width / 2 if line is not None else 0)
            _stroke(pen, xy, paint=inside or part.ink, width=bare * scale)
            continue
        if inside is not None:
            pen.polygon(xy, fill=inside)
        line = edge(part) if edge and not part.small else None
        if line is not None:
            joint = "curve" if len(part.points) < 16 else None
            pen.line(xy + xy[:4], fill=line, width=thick, joint=joint)
    return canvas


def _stroke(pen: ImageDraw.ImageDraw, xy: list[float], *, paint: RGB | int, width: float) -> None:
    pen.line(xy, fill=paint, width=max(1, round(width)), joint="curve")
    r = width / 2 - 0.5
    if r >= 1:
        for x, y in (xy[:2], xy[-2:]):
            pen.ellipse((x - r, y - r, x + r, y + r), fill=paint)


def halo(canvas: Image.Image, parts: list[Part], *, paint: RGB, grow: float) -> Image.Image:
    """The parts' silhouette in one colour, ``grow`` (of the frame) wider on every side."""
    pen, scale = ImageDraw.Draw(canvas), canvas.width
    for part in parts:
        xy = (part.points * scale).ravel().tolist()
        if part.width:
            _stroke(pen, xy, paint=paint, width=(part.width + 2 * grow) * scale)
        elif not part.small:
            pen.polygon(xy, fill=paint)
            joint = "curve" if len(part.points) < 16 else None
            pen.line(xy + xy[:4], fill=paint, width=round(2 * grow * scale), joint=joint)
    return canvas


def outlines(layers: Layers, size: int, *, behind: float, front: float) -> Image.Image:
    """An L mask of the outlines that are not covered by later parts."""
    mask = Image.new("L", (size * FINE, size * FINE), 0)
    pen, scale = ImageDraw.Draw(mask), mask.width
    for parts, width in ((layers.back, behind), (layers.front, front)):
        thick = round(width * scale)
        for part in parts:
            xy = (part.points * scale).ravel().tolist()
            if part.width:
                if thick and part.width > 0.03:
                    _stroke(pen, xy, paint=255, width=part.width * scale + thick)
                _stroke(pen, xy, paint=0, width=part.width * scale)
                continue
            pen.polygon(xy, fill=0)
            if thick and not part.small:
                joint = "curve" if len(part.points) < 16 else None
                pen.line(xy + xy[:4], fill=255, width=thick, joint=joint)
    return mask


def silhouette(layers: Layers, size: int, *, grow: float) -> Image.Image:
    """An L mask of the subject and what it carries."""
    mask = Image.new("RGB", (size * FINE, size * FINE))
    return halo(mask, layers.front, paint=(255, 255, 255), grow=grow).getchannel(0)


def shrunk(image: Image.Image, size: int) -> np.ndarray:
    """float32 [size, size, 3], 0..255."""
    return np.asarray(image.reduce(image.width // size), dtype=np.float32)


def picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """share of b, the rest a."""
    red, green, blue = (round(p * (1 - share) + q * share) for p, q in zip(a, b, strict=True))
    return red, green, blue
