"""The subjects of scenes, and where each wears and holds its accessories, in its unit box."""

from dataclasses import dataclass
from functools import cache

from studio.sketch.world import animals, things
from studio.sketch.world.shapes import Shape


@dataclass(frozen=True)
class Anchors:
    """Where a subject wears things: (x, y, width) each, and (x, y) of the hand."""

    crown: tuple[float, float, float]
    eyes: tuple[float, float, float]
    neck: tuple[float, float, float]
    hand: tuple[float, float]


_DRAWN = {
    "cat": (
        animals.cat,
        Anchors((0.5, 0.12, 0.42), (0.5, 0.29, 0.5), (0.5, 0.57, 0.4), (0.82, 0.72)),
    ),
    "dog": (
        animals.dog,
        Anchors((0.7, 0.13, 0.36), (0.76, 0.25, 0.38), (0.7, 0.53, 0.34), (0.8, 0.72)),
    ),
    "rabbit": (
        animals.rabbit,
        Anchors((0.5, 0.32, 0.38), (0.5, 0.44, 0.46), (0.5, 0.69, 0.36), (0.76, 0.72)),
    ),
    "fish": (
        animals.fish,
        Anchors((0.64, 0.3, 0.36), (0.74, 0.46, 0.4), (0.68, 0.7, 0.34), (0.56, 0.3)),
    ),
    "duck": (
        animals.duck,
        Anchors((0.67, 0.12, 0.36), (0.73, 0.24, 0.36), (0.67, 0.5, 0.34), (0.84, 0.7)),
    ),
    "turtle": (
        animals.turtle,
        Anchors((0.86, 0.37, 0.32), (0.87, 0.45, 0.32), (0.8, 0.66, 0.3), (0.12, 0.66)),
    ),
    "snail": (
        animals.snail,
        Anchors((0.42, 0.17, 0.4), (0.87, 0.31, 0.34), (0.84, 0.78, 0.3), (0.1, 0.82)),
    ),
    "butterfly": (
        animals.butterfly,
        Anchors((0.5, 0.19, 0.32), (0.5, 0.25, 0.38), (0.5, 0.42, 0.34), (0.86, 0.56)),
    ),
    "frog": (
        animals.frog,
        Anchors((0.5, 0.23, 0.36), (0.5, 0.2, 0.8), (0.5, 0.7, 0.38), (0.88, 0.7)),
    ),
    "owl": (
        animals.owl,
        Anchors((0.5, 0.17, 0.42), (0.5, 0.35, 0.66), (0.5, 0.64, 0.38), (0.88, 0.66)),
    ),
    "elephant": (
        animals.elephant,
        Anchors((0.76, 0.17, 0.38), (0.81, 0.31, 0.36), (0.6, 0.64, 0.34), (0.97, 0.84)),
    ),
    "giraffe": (
        animals.giraffe,
        Anchors((0.72, 0.1, 0.3), (0.77, 0.15, 0.32), (0.59, 0.42, 0.3), (0.14, 0.6)),
    ),
    "crab": (
        animals.crab,
        Anchors((0.5, 0.33, 0.36), (0.5, 0.38, 0.48), (0.5, 0.82, 0.36), (0.88, 0.3)),
    ),
    "house": (
        things.house,
        Anchors((0.5, 0.08, 0.42), (0.5, 0.63, 0.8), (0.5, 0.5, 0.42), (0.9, 0.74)),
    ),
    "car": (
        things.car,
        Anchors((0.5, 0.23, 0.42), (0.5, 0.41, 0.5), (0.5, 0.66, 0.38), (0.94, 0.62)),
    ),
    "boat": (
        things.boat,
        Anchors((0.48, 0.08, 0.36), (0.5, 0.8, 0.46), (0.48, 0.64, 0.38), (0.92, 0.72)),
    ),
    "mushroom": (
        things.mushroom,
        Anchors((0.5, 0.07, 0.42), (0.5, 0.68, 0.36), (0.5, 0.85, 0.36), (0.7, 0.78)),
    ),
    "teapot": (
        things.teapot,
        Anchors((0.48, 0.25, 0.38), (0.48, 0.56, 0.46), (0.48, 0.8, 0.38), (0.94, 0.4)),
    ),
    "apple": (
        things.apple,
        Anchors((0.5, 0.25, 0.4), (0.5, 0.52, 0.52), (0.5, 0.8, 0.42), (0.88, 0.66)),
    ),
    "airplane": (
        things.airplane,
        Anchors((0.7, 0.39, 0.36), (0.83, 0.47, 0.34), (0.76, 0.64, 0.34), (0.52, 0.4)),
    ),
    "robot": (
        things.robot,
        Anchors((0.5, 0.13, 0.42), (0.5, 0.24, 0.52), (0.5, 0.46, 0.38), (0.9, 0.72)),
    ),
    "octopus": (
        animals.octopus,
        Anchors((0.5, 0.06, 0.42), (0.5, 0.4, 0.5), (0.5, 0.66, 0.38), (0.96, 0.66)),
    ),
    "cactus": (
        things.cactus,
        Anchors((0.5, 0.06, 0.38), (0.5, 0.4, 0.38), (0.5, 0.6, 0.36), (0.86, 0.3)),
    ),
    "ghost": (
        things.ghost,
        Anchors((0.5, 0.06, 0.42), (0.5, 0.33, 0.52), (0.5, 0.68, 0.38), (0.92, 0.6)),
    ),
    "penguin": (
        animals.penguin,
        Anchors((0.5, 0.08, 0.4), (0.5, 0.25, 0.42), (0.5, 0.52, 0.38), (0.88, 0.68)),
    ),
    "rocket": (
        things.rocket,
        Anchors((0.5, 0.04, 0.34), (0.5, 0.38, 0.46), (0.5, 0.6, 0.36), (0.84, 0.7)),
    ),
}

SUBJECTS = tuple(_DRAWN)
HELD_OUT_SUBJECTS = ("robot", "octopus", "cactus", "ghost", "penguin", "rocket")


@cache
def subject_shapes(name: str) -> tuple[Shape, ...]:
    """The subject's shapes from back to front, in its unit box."""
    return tuple(_DRAWN[name][0]())


def where(name: str) -> Anchors:
    """Where this subject wears and holds things, in its unit box."""
    return _DRAWN[name][1]
