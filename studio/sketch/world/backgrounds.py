"""The backgrounds of scenes: a few large shapes with random places, in coordinates 0..1."""

from collections.abc import Callable

import numpy as np

from studio.sketch.world.shapes import RGB, Shape, blob, box, oval, poly, stroke


def _hill(rng: np.random.Generator, paint: RGB, *, top: float, wave: float) -> Shape:
    """Ground up to a smooth wavy line about ``top``."""
    crest = [(x, top + float(rng.uniform(-wave, wave))) for x in (-0.15, 0.2, 0.5, 0.8, 1.15)]
    line = stroke(paint, 1.0, *crest).points
    return Shape(np.concatenate([line, [(1.15, 1.1), (-0.15, 1.1)]]), paint)


def _side(rng: np.random.Generator) -> float:
    """An x near the left or the right edge."""
    return float(rng.uniform(0.1, 0.25) if rng.random() < 0.5 else rng.uniform(0.75, 0.9))


def _cloud(rng: np.random.Generator, paint: RGB) -> list[Shape]:
    x, y = _side(rng), float(rng.uniform(0.1, 0.2))
    return [oval(paint, x - 0.08, y, 0.1, 0.05), oval(paint, x + 0.05, y - 0.02, 0.11, 0.07)]


def _beach(rng: np.random.Generator) -> list[Shape]:
    sea, shore, x = rng.uniform(0.42, 0.5), rng.uniform(0.66, 0.74), _side(rng)
    lean = 0.1 if x < 0.5 else -0.1
    top = (x + lean, 0.28)
    leaves = [(-0.2, 0.1), (-0.16, -0.08), (0.02, -0.14), (0.18, -0.06), (0.2, 0.1)]
    return [
        box((130, 210, 250), -0.1, -0.1, 1.1, 1.1),
        oval((255, 225, 90), 1 - x, 0.14, 0.1),
        box((30, 125, 200), -0.1, sea, 1.1, 1.1),
        _hill(rng, (245, 220, 160), top=shore, wave=0.03),
        stroke((125, 85, 50), 0.05, (x, 0.85), (x + lean * 0.3, 0.55), top),
        *(
            stroke(
                (40, 140, 60),
                0.05,
                top,
                (top[0] + a * 0.6, top[1] + b - 0.05),
                (top[0] + a, top[1] + b),
            )
            for a, b in leaves
        ),
    ]


def _forest(rng: np.random.Generator) -> list[Shape]:
    trees = []
    for x in (0.02, 0.2, 0.4, 0.6, 0.8, 0.98):
        x, top = x + float(rng.uniform(-0.04, 0.04)), float(rng.uniform(0.02, 0.16))
        green = (20, int(rng.integers(75, 110)), 50)
        trees += [
            box((85, 55, 35), x - 0.03, 0.5, x + 0.03, 0.82),
            poly(green, (x - 0.15, 0.64), (x, top), (x + 0.15, 0.64)),
        ]
    return [
        box((150, 200, 140), -0.1, -0.1, 1.1, 1.1),
        *trees,
        _hill(rng, (60, 100, 40), top=0.8, wave=0.02),
    ]


def _city(rng: np.random.Generator) -> list[Shape]:
    x, moon = -0.03, _side(rng)
    shapes = [box((25, 28, 75), -0.1, -0.1, 1.1, 1.1), oval((250, 245, 200), moon, 0.14, 0.085)]
    while x < 1.0:
        wide, top = float(rng.uniform(0.17, 0.24)), float(rng.uniform(0.25, 0.55))
        shade = int(rng.integers(0, 25))
        shapes.append(box((60 + shade, 60 + shade, 100 + shade), x, top, x + wide, 0.9))
        shapes += [
            box((255, 215, 90), x + wide * a, y, x + wide * (a + 0.28), y + 0.07)
            for a in (0.14, 0.58)
            for y in np.arange(top + 0.06, 0.8, 0.14)
        ]
        x += wide + 0.01
    return [*shapes, box((40, 40, 55), -0.1, 0.86, 1.1, 1.1)]


def _mountains(rng: np.random.Generator) -> list[Shape]:
    shapes = [box((175, 210, 240), -0.1, -0.1, 1.1, 1.1)]
    for x, top in ((0.5, 0.3), (0.12, 0.1), (0.9, 0.14)):
        x, top = x + float(rng.uniform(-0.08, 0.08)), top + float(rng.uniform(-0.04, 0.06))
        shapes += [
            poly((105, 115, 150), (x - 0.42, 0.82), (x, top), (x + 0.42, 0.82)),
            poly(
                (255, 255, 255),
                (x - 0.14, top + 0.24),
                (x, top),
                (x + 0.14, top + 0.24),
                (x + 0.05, top + 0.19),
                (x, top + 0.27),
                (x - 0.06, top + 0.19),
            ),
        ]
    return [*shapes, _hill(rng, (238, 245, 255), top=0.76, wave=0.04)]


def _desert(rng: np.random.Generator) -> list[Shape]:
    x, y = _side(rng), float(rng.uniform(0.54, 0.6))
    return [
        box((255, 190, 110), -0.1, -0.1, 1.1, 1.1),
        oval((255, 245, 190), 1 - x, 0.17, 0.12),
        poly((215, 150, 70), (x - 0.3, y + 0.08), (x, 0.2), (x + 0.3, y + 0.08)),
        poly((165, 105, 50), (x, 0.2), (x + 0.1, y + 0.08), (x + 0.3, y + 0.08)),
        _hill(rng, (235, 170, 85), top=y, wave=0.05),
        _hill(rng, (205, 130, 55), top=0.8, wave=0.06),
    ]


def _underwater(rng: np.random.Generator) -> list[Shape]:
    shapes = [
        box((20, 95, 175), -0.1, -0.1, 1.1, 1.1),
        _hill(rng, (15, 75, 150), top=0.45, wave=0.04),
    ]
    for x in rng.uniform(0.1, 0.9, 3):
        shapes.append(
            poly(
                (70, 160, 215), (x - 0.03, -0.1), (x + 0.05, -0.1), (x + 0.2, 0.5), (x + 0.04, 0.5)
            )
        )
    shapes.append(_hill(rng, (195, 180, 130), top=0.88, wave=0.03))
    for x in (0.06, 0.16, 0.86, 0.95):
        x, top = x + float(rng.uniform(-0.03, 0.03)), float(rng.uniform(0.4, 0.65))
        weed = [
            (x + a, top + b * (0.95 - top))
            for a, b in ((0, 1), (0.05, 0.65), (-0.04, 0.35), (0.03, 0))
        ]
        shapes.append(stroke((20, 150, 90), 0.055, *weed))
    for _ in range(5):
        x, y = _side(rng), float(rng.uniform(0.05, 0.5))
        shapes.append(oval((190, 230, 250), x, y, float(rng.uniform(0.025, 0.045))))
    return shapes


def _space(rng: np.random.Generator) -> list[Shape]:
    x, y = _side(rng), float(rng.uniform(0.15, 0.28))
    stars = [
        oval(
            (255, 250, 220),
            *(float(v) for v in rng.uniform((0.03, 0.03, 0.014), (0.97, 0.97, 0.026))),
        )
        for _ in range(18)
    ]
    return [
        box((18, 12, 40), -0.1, -0.1, 1.1, 1.1),
        blob(
            (55, 30, 95),
            (-0.1, 0.9),
            (0.3, 0.5),
            (0.7, 0.5),
            (1.1, 0.1),
            (1.1, 0.45),
            (0.5, 0.85),
            (0.1, 1.1),
        ),
        *stars,
        oval((225, 150, 100), x, y, 0.13),
        stroke((250, 225, 170), 0.035, (x - 0.22, y + 0.08), (x, y + 0.03), (x + 0.22, y - 0.08)),
        oval((150, 150, 165), 1 - x, 0.98, 0.3, 0.16),
    ]


def _meadow(rng: np.random.Generator) -> list[Shape]:
    petals: list[RGB] = [(255, 255, 255), (255, 225, 70), (240, 110, 150)]
    flowers = [
        oval(petals[i % 3], float(rng.uniform(0.02, 0.98)), float(rng.uniform(0.72, 0.97)), 0.028)
        for i in range(12)
    ]
    return [
        box((150, 215, 255), -0.1, -0.1, 1.1, 1.1),
        *_cloud(rng, (255, 255, 255)),
        *_cloud(rng, (255, 255, 255)),
        _hill(rng, (140, 205, 90), top=0.48, wave=0.07),
        _hill(rng, (95, 175, 65), top=0.66, wave=0.05),
        *flowers,
    ]


def _volcano(rng: np.random.Generator) -> list[Shape]:
    x, top = _side(rng) * 0.5 + 0.25, float(rng.uniform(0.24, 0.32))
    lava = (255, 120, 20)
    return [
        box((95, 25, 35), -0.1, -0.1, 1.1, 1.1),
        *(oval((60, 40, 45), x + a, top - b, 0.13, 0.08) for a, b in ((0.16, 0.2), (-0.2, 0.21))),
        poly(
            (255, 190, 50),
            (x - 0.06, top + 0.05),
            (x - 0.13, 0.02),
            (x, 0.1),
            (x + 0.13, 0.02),
            (x + 0.06, top + 0.05),
        ),
        poly((50, 35, 40), (x - 0.6, 0.9), (x - 0.1, top), (x + 0.1, top), (x + 0.6, 0.9)),
        *(
            stroke(lava, 0.055, (x + a * 0.2, top), (x + a * 0.6, 0.52), (x + a, 0.85))
            for a in (-0.42, -0.08, 0.36)
        ),
        _hill(rng, (35, 25, 30), top=0.78, wave=0.02),
        _hill(rng, lava, top=0.9, wave=0.02),
    ]


def _candy(rng: np.random.Generator) -> list[Shape]:
    shapes = [
        box((255, 205, 225), -0.1, -0.1, 1.1, 1.1),
        *_cloud(rng, (255, 255, 255)),
        _hill(rng, (170, 235, 215), top=0.6, wave=0.05),
        _hill(rng, (255, 145, 190), top=0.76, wave=0.04),
    ]
    for x, paint in ((0.12, (150, 90, 220)), (0.86, (235, 50, 90))):
        x, y = x + float(rng.uniform(-0.04, 0.04)), float(rng.uniform(0.3, 0.42))
        shapes += [
            stroke((255, 255, 255), 0.04, (x, y), (x, 0.84)),
            oval(paint, x, y, 0.13),
            oval((255, 255, 255), x, y, 0.085),
            oval(paint, x, y, 0.045),
        ]
    drops: list[RGB] = [(255, 220, 60), (90, 190, 250), (255, 255, 255)]
    spots = [(float(rng.uniform(0, 1)), float(rng.uniform(0.84, 0.97))) for _ in range(6)]
    return [*shapes, *(oval(drops[i % 3], *spot, 0.04) for i, spot in enumerate(spots))]


_DRAWN: dict[str, Callable[[np.random.Generator], list[Shape]]] = {
    "beach": _beach,
    "forest": _forest,
    "city night": _city,
    "snowy mountains": _mountains,
    "desert": _desert,
    "underwater": _underwater,
    "space": _space,
    "meadow": _meadow,
    "volcano": _volcano,
    "candy land": _candy,
}

BACKGROUNDS = tuple(_DRAWN)
HELD_OUT_BACKGROUNDS = ("volcano", "candy land")


def background_shapes(name: str, rng: np.random.Generator) -> list[Shape]:
    """The background's shapes from back to front; the first covers the frame."""
    return _DRAWN[name](rng)
