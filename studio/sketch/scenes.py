"""Scenes of the sketch world: the truth about a picture, sampled at random.

A scene is a subject before a place in a style. It may be painted, wear one thing and hold another.
Some of each are held out: the base never sees them, so that adapters have something to teach.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from studio.sketch.art import choose_design, design_rows, load_art, place_rows

SUBJECTS = tuple(name for role, name in design_rows() if role == "subject")
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.88, 0.14, 0.16),
    "orange": (1.0, 0.55, 0.1),
    "yellow": (1.0, 0.86, 0.16),
    "green": (0.2, 0.66, 0.24),
    "teal": (0.08, 0.68, 0.68),
    "blue": (0.17, 0.36, 0.9),
    "purple": (0.53, 0.25, 0.77),
    "pink": (1.0, 0.5, 0.74),
    "brown": (0.5, 0.3, 0.15),
    "white": (0.97, 0.97, 0.97),
}
PATTERNS = ("plain", "striped", "dotted", "checked")  # the base knows only the first
WORN = ("top hat", "crown", "graduation cap", "cap", "helmet")
HELD = ("balloon", "umbrella", "flower", "star", "key", "guitar", "gift", "lollipop")
PLACES = tuple(place_rows())
WALLS = {  # plain backgrounds
    **{name: COLOURS[name] for name in COLOURS if name != "brown"},
    "grey": (0.72, 0.72, 0.74),
    "black": (0.1, 0.1, 0.12),
}
STYLES = (
    "3d render",
    "flat illustration",
    "cartoon",
    "watercolor",
    "pixel art",
    "chalk drawing",
    "line drawing",
    "neon",
    "ink drawing",
    "halftone",
    "stained glass",
    "mosaic",
)
NOTHING = "nothing"
OWN = "its own"
FACTORS: dict[str, tuple[str, ...]] = {  # what the judge is asked, and its answers
    "subject": SUBJECTS,
    "colour": (OWN, *COLOURS),
    "pattern": PATTERNS,
    "pattern colour": (NOTHING, *COLOURS),
    "place": (*PLACES, *(f"{name} wall" for name in WALLS)),
    "style": STYLES,
    "worn": (NOTHING, *WORN),
    "held": (NOTHING, *HELD),
}

HELD_OUT_SUBJECTS = (
    "octopus",
    "hedgehog",
    "teapot",
    "sailboat",
    "dragon",
    "ghost",
    "cactus",
    "camera",
)
HELD_OUT_STYLES = ("neon", "ink drawing", "halftone", "stained glass", "mosaic")
HELD_OUT_PLACES = ("volcano", "candy land")
HELD_OUT_WORN, HELD_OUT_HELD = ("helmet",), ("guitar", "key")


def _without(names: Sequence[str], held_out: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in held_out)


TRAINED_SUBJECTS = _without(SUBJECTS, HELD_OUT_SUBJECTS)
TRAINED_STYLES = _without(STYLES, HELD_OUT_STYLES)
TRAINED_PLACES = _without(PLACES, HELD_OUT_PLACES)
TRAINED_WORN, TRAINED_HELD = _without(WORN, HELD_OUT_WORN), _without(HELD, HELD_OUT_HELD)


@dataclass(frozen=True)
class Paint:
    """What a subject is painted with. colour: None for its own colours."""

    colour: str | None = None
    pattern: str = "plain"
    pattern_colour: str = "white"


@dataclass(frozen=True)
class Item:
    """Something of a scene that has a design. design: its row in the art."""

    name: str
    design: int


@dataclass(frozen=True)
class Scene:
    """The truth about a picture.

    place: one of PLACES, or None before a wall. place_row: the row of the place's variant.
    size, x, bottom: the subject's height, its middle and its lower edge, each in 0..1 of the frame.
    turn: in degrees. side: 1 where things are held on the right, -1 on the left. seed: for the
    random numbers of the style.
    """

    subject: Item
    paint: Paint
    place: str | None
    wall: str
    place_row: int
    style: str
    worn: Item | None
    held: Item | None
    size: float
    x: float
    bottom: float
    turn: float
    side: int
    mirrored: bool
    place_mirrored: bool
    seed: int


def sample(
    rng: np.random.Generator,
    *,
    subjects: Sequence[str] = TRAINED_SUBJECTS,
    styles: Sequence[str] = TRAINED_STYLES,
    places: Sequence[str] = TRAINED_PLACES,
    worn: Sequence[str] = TRAINED_WORN,
    held: Sequence[str] = TRAINED_HELD,
    paint: Paint | None = None,
    wall_rate: float = 0.25,
    worn_rate: float = 0.22,
    held_rate: float = 0.22,
    bare: bool = False,
) -> Scene:
    """A random scene that fits the frame.

    paint: of the subject; None: its own colours, or in a third of scenes one of COLOURS.
    bare: always in a place and with nothing worn or held, whatever the three rates are.
    """
    if bare:
        wall_rate = worn_rate = held_rate = 0.0
    style, subject = _one(rng, styles), _one(rng, subjects)

    def item(role: str, names: Sequence[str], rate: float) -> Item | None:
        if rng.random() >= rate or (name := _one(rng, names)) == subject:
            return None
        return Item(name, choose_design(role, name, style, rng))

    body = Item(subject, choose_design("subject", subject, style, rng))
    on, carried = item("worn", worn, worn_rate), item("held", held, held_rate)
    place = None if rng.random() < wall_rate else _one(rng, places)
    size, x, bottom, side = _stand(rng, body, hat=on is not None, carries=carried is not None)
    return Scene(
        subject=body,
        paint=paint or _random_paint(rng),
        place=place,
        wall=_one(rng, tuple(WALLS)),
        place_row=int(rng.choice(place_rows()[place])) if place else 0,
        style=style,
        worn=on,
        held=carried,
        size=size,
        x=x,
        bottom=bottom,
        turn=float(rng.uniform(-5, 5)),
        side=side,
        mirrored=bool(rng.random() < 0.5),
        place_mirrored=bool(rng.random() < 0.5),
        seed=int(rng.integers(2**31)),
    )


def sample_any(rng: np.random.Generator) -> Scene:
    """A random scene of the whole world, including everything held out, and patterns."""
    paint = _random_paint(rng)
    if rng.random() < 0.4:
        colours = tuple(COLOURS)
        paint = Paint(paint.colour, _one(rng, PATTERNS[1:]), _one(rng, colours))
    return sample(
        rng, subjects=SUBJECTS, styles=STYLES, places=PLACES, worn=WORN, held=HELD, paint=paint
    )


def _random_paint(rng: np.random.Generator) -> Paint:
    return Paint(_one(rng, tuple(COLOURS)) if rng.random() < 0.35 else None)


def _stand(
    rng: np.random.Generator, body: Item, *, hat: bool, carries: bool
) -> tuple[float, float, float, int]:
    """Size, x, bottom and side of a subject, with room for what it wears and holds."""
    size = float(rng.uniform(0.56, 0.82))
    if hat or carries:
        size = min(size, 0.66)
    width = max(0.45, float(load_art().heads[body.design, 2]))
    head_room = 0.03 + (0.36 * size * width if hat else 0.0)
    bottom = float(rng.uniform(max(0.80, size + head_room), 0.97))
    half = size / 2
    x = float(rng.uniform(half + 0.02, 0.98 - half))
    side = 1 if x < 0.5 else -1
    if carries:
        x = half + 0.04 if side > 0 else 0.96 - half
    return size, x, bottom, side


def _one(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]
