"""The styles: each draws the same layers of shapes in its own way.

Patterns are strong and at least four pixels wide at 64 x 64, because the VAE, whose latents cover
4 x 4 pixels, must preserve them.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from studio.sketch.world.brush import (
    DARK,
    FINE,
    PAPER,
    Layers,
    Part,
    blank,
    halo,
    mix,
    outlines,
    paint,
    picture,
    shrunk,
    silhouette,
)
from studio.sketch.world.patterns import VARIANTS, dots, hatch, noise, panes
from studio.sketch.world.shapes import RGB


def render(style: str, layers: Layers, *, rng: np.random.Generator, size: int) -> Image.Image:
    """The layers in that style, RGB [size, size].

    The pen is soft, two pixels wide at 64: latents have four numbers for sixteen pixels, and
    what an autoencoder cannot keep, no adapter can learn.
    """
    drawn = _DRAWN[style](layers, rng, size)
    return drawn.filter(ImageFilter.GaussianBlur(0.7 * size / 64))


def _fill(part: Part) -> RGB:
    return part.fill


def _dark(part: Part) -> RGB:
    return DARK


def _flat(layers: Layers, rng: np.random.Generator, size: int) -> Image.Image:
    """Plain fills; the subject is cut out with a thin edge."""
    canvas = paint(blank(size), layers.back, fill=_fill)
    rim = (60, 55, 75) if layers.pale else (255, 252, 245)
    halo(canvas, layers.front, paint=rim, grow=0.016)
    return paint(canvas, layers.front, fill=_fill).reduce(FINE)


def _cartoon(layers: Layers, rng: np.random.Generator, size: int) -> Image.Image:
    """Bold dark outlines round everything, lighter behind."""
    canvas = paint(
        blank(size),
        layers.back,
        fill=lambda p: mix(p.fill, (255, 255, 255), 0.22),
        edge=_dark,
        width=0.018,
    )
    halo(canvas, layers.front, paint=(255, 255, 255), grow=0.038)
    halo(canvas, layers.front, paint=DARK, grow=0.024)
    return paint(canvas, layers.front, fill=_fill, edge=_dark, width=0.03).reduce(FINE)


def _line(layers: Layers, rng: np.random.Generator, size: int) -> Image.Image:
    """Coloured lines on off-white paper; the background is faintly tinted."""
    canvas = paint(
        blank(size),
        layers.back,
        fill=lambda p: mix(p.fill, PAPER, 0.84 if not p.width else 0.3),
        edge=lambda p: mix(p.ink, PAPER, 0.25),
        width=0.016,
    )
    halo(canvas, layers.front, paint=PAPER, grow=0.035)
    if layers.pale:
        halo(canvas, layers.front, paint=(95, 95, 110), grow=0.028)
    return paint(
        canvas,
        layers.front,
        fill=lambda p: p.fill if p.solid or p.thin or p.small else mix(p.fill, PAPER, 0.94),
        edge=lambda p: p.ink,
        width=0.036,
    ).reduce(FINE)


def _watercolor(layers: Layers, rng: np.random.Generator, size: int) -> Image.Image:
    """Soft wobbling washes that run darker at their edges and fade into the paper."""
    canvas = paint(blank(size), layers.back, fill=_fill)
    halo(canvas, layers.front, paint=(255, 253, 245), grow=0.02)
    paint(
        canvas, layers.front, fill=_fill, edge=lambda p: mix(p.fill, (60, 50, 80), 0.4), width=0.022
    )
    soft = np.asarray(canvas.reduce(FINE // 2).filter(ImageFilter.GaussianBlur(0.8)))
    side = size * 2
    dx, dy = (noise(rng, size=side, cells=12)[..., 0] * 5 - 2.5 for _ in range(2))
    y, x = np.mgrid[:side, :side]
    bent = soft[(y + dy).astype(int).clip(0, side - 1), (x + dx).astype(int).clip(0, side - 1)]
    wash = shrunk(Image.fromarray(bent), size)
    pool = noise(rng, size=size, cells=9)
    t = np.abs(np.linspace(-1, 1, size, dtype=np.float32))
    border = np.maximum(t[:, None], t[None, :])[..., None]
    sheet = ((1.12 - border + 0.22 * (pool - 0.5)) * 7).clip(0, 1)
    strength = (0.66 + 0.34 * pool) * sheet
    return picture(np.array((252, 249, 240), dtype=np.float32) * (1 - strength) + wash * strength)


def _pixel(layers: Layers, rng: np.random.Generator, size: int) -> Image.Image:
    """Blocks: 4 pixels in the background; 2 in the subject, which would drown in larger ones."""
    back = paint(blank(size, fine=1), layers.back, fill=_fill).reduce(4)
    back = back.resize((size // 2, size // 2), Image.Resampling.NEAREST)
    rows = (np.asarray(back).astype(int) + 16) // 32 * 32
    canvas = picture(rows)
    halo(canvas, layers.front, paint=DARK, grow=2 / size)
    paint(canvas, layers.front, fill=_fill)
    return canvas.resize((size, size), Image.Resampling.NEAREST)


def _chalk(layers: Layers, rng: np.random.Generator, size: int) -> Image.Image:
    """Grainy coloured chalk on a blackboard."""
    board: RGB = (36, 50, 46)
    canvas = paint(
        blank(size, board),
        layers.back,
        fill=lambda p: mix(board, p.fill, 0.34 if not p.width else 0.6),
        edge=lambda p: mix(board, mix(p.fill, (255, 255, 255), 0.3), 0.75),
        width=0.02,
    )
    halo(canvas, layers.front, paint=board, grow=0.035)
    paint(
        canvas,
        layers.front,
        fill=lambda p: _chalk_fill(p, board),
        edge=_chalked,
        width=0.04,
    )
    grain = 0.72 + 0.5 * noise(rng, size=size, cells=20) * noise(rng, size=size, cells=13) ** 0.5
    smudge = 14 * noise(rng, size=size, cells=5)
    ground = np.array(board, dtype=np.float32)
    return picture(ground + smudge + (shrunk(canvas, size) - ground) * grain)


def _chalk_fill(part: Part, board: RGB) -> RGB:
    if part.thin or (part.small and not part.solid):
        return _chalked(part)
    return board if part.solid else mix(board, part.fill, 0.55)


def _chalked(part: Part) -> RGB:
    """Chalk is never darker than this."""
    tint = part.fill if sum(part.ink) < 150 else part.ink
    return mix(tint, (255, 255, 255), 0.15 if sum(tint) > 150 else 0.6)


def _neon(layers: Layers, rng: np.random.Generator, size: int) -> Image.Image:
    """Glowing tubes in the dark."""
    night: RGB = (10, 8, 22)
    back = paint(
        blank(size),
        layers.back,
        fill=lambda p: mix(night, p.fill, 0.26 if not p.width else 0.45),
        edge=lambda p: mix(night, p.fill, 0.6),
        width=0.014,
    )
    halo(back, layers.front, paint=night, grow=0.04)
    paint(back, layers.front, fill=lambda p: mix(night, p.fill, 0.2))
    black: RGB = (0, 0, 0)
    tubes = paint(
        blank(size, black),
        layers.front,
        fill=lambda p: _lit(p) if p.thin or p.small else black,
        edge=_lit,
        width=0.032,
    )
    tube = tubes.reduce(FINE)
    glow = np.asarray(tube.filter(ImageFilter.GaussianBlur(size * 0.045)), dtype=np.float32)
    core = np.asarray(tube, dtype=np.float32)
    light = shrunk(back, size) + core + 1.1 * glow
    return picture(light / np.maximum(light.max(-1, keepdims=True) / 255, 1))  # keeps the hue


def _lit(part: Part) -> RGB:
    """The tube's light; black things glow a dim steel blue."""
    return part.ink if max(part.ink) > 70 else (105, 115, 150)


def _ink(layers: Layers, rng: np.random.Generator, size: int) -> Image.Image:
    """Hatched strokes of coloured ink, one way behind, the other way in the subject; bold black."""
    side = size * FINE
    canvas = paint(blank(size), layers.back, fill=lambda p: mix(p.fill, DARK, 0.15))
    strokes = hatch(side, 6.5 * FINE, rising=True)
    paper = Image.blend(canvas, blank(size), 0.82)
    canvas = Image.composite(canvas, paper, strokes)
    front = paint(blank(size), layers.front, fill=_fill)
    hatched = Image.composite(
        front, Image.blend(front, blank(size), 0.6), hatch(side, 5 * FINE, rising=False)
    )
    solid = (
        paint(
            Image.new("RGB", (side, side)),
            layers.front,
            fill=lambda p: DARK if not p.solid else (255, 255, 255),
        )
        .getchannel(0)
        .point([0] * 129 + [255] * 127)
    )
    hatched.paste(DARK, mask=solid)
    canvas.paste(PAPER, mask=silhouette(layers, size, grow=0.036))
    canvas.paste(hatched, mask=silhouette(layers, size, grow=0.005))
    canvas.paste(DARK, mask=outlines(layers, size, behind=0.016, front=0.036))
    return canvas.reduce(FINE)


def _halftone(layers: Layers, rng: np.random.Generator, size: int) -> Image.Image:
    """Pop-art dots on bright tints, thick black outlines."""
    side = size * FINE
    canvas = paint(blank(size), layers.back, fill=_fill)
    white = blank(size, (255, 255, 255))
    canvas = Image.composite(canvas, Image.blend(canvas, white, 0.72), dots(side, 6.5 * FINE))
    canvas.paste((255, 255, 255), mask=silhouette(layers, size, grow=0.038))
    flat = paint(blank(size), layers.front, fill=_fill)
    light = paint(
        blank(size),
        layers.front,
        fill=lambda p: p.fill if p.solid else mix(p.fill, (255, 255, 255), 0.5),
    )
    dotted = Image.composite(flat, light, dots(side, 6.5 * FINE))
    canvas.paste(dotted, mask=silhouette(layers, size, grow=0.005))
    canvas.paste(DARK, mask=outlines(layers, size, behind=0.012, front=0.03))
    return canvas.reduce(FINE)


def _stained(layers: Layers, rng: np.random.Generator, size: int) -> Image.Image:
    """Luminous panes between dark leading."""
    bright, lead = panes(size * FINE, int(rng.integers(VARIANTS)))
    lead = lead.copy()
    lead.paste(0, mask=silhouette(layers, size, grow=0.0))
    glass = paint(
        blank(size),
        layers.back,
        fill=lambda p: mix(p.fill, (255, 255, 255), 0.08),
        edge=_dark,
        width=0.016,
    )
    glass.paste(DARK, mask=lead)
    halo(glass, layers.front, paint=DARK, grow=0.032)
    paint(glass, layers.front, fill=_fill, edge=_dark, width=0.034)
    pixels = shrunk(glass, size) * bright
    glow = np.asarray(
        picture(pixels).filter(ImageFilter.GaussianBlur(size * 0.05)), dtype=np.float32
    )
    return picture(pixels * 1.02 + 0.12 * glow)


_DRAWN: dict[str, Callable[[Layers, np.random.Generator, int], Image.Image]] = {
    "flat": _flat,
    "cartoon": _cartoon,
    "line drawing": _line,
    "watercolor": _watercolor,
    "pixel art": _pixel,
    "chalk": _chalk,
    "neon": _neon,
    "ink": _ink,
    "halftone": _halftone,
    "stained glass": _stained,
}

STYLES = tuple(_DRAWN)
HELD_OUT_STYLES = ("neon", "ink", "halftone", "stained glass")
