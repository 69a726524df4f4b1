"""The shapes that all drawings consist of: filled outlines and thick strokes."""

import math
from dataclasses import dataclass

import numpy as np

RGB = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True)
class Shape:
    """An outline, or a stroke where ``width`` > 0.

    points: float [N, 2], x right and y down, in units of the box it is drawn in.
    paint: a colour 0..255, or "body", "shade", "light", "dark" or "white".
    """

    points: np.ndarray
    paint: str | RGB
    width: float = 0.0


def poly(paint: str | RGB, *points: Point) -> Shape:
    """Straight edges through the points."""
    return Shape(np.array(points, dtype=float), paint)


def box(paint: str | RGB, left: float, top: float, right: float, bottom: float) -> Shape:
    """An upright rectangle."""
    return poly(paint, (left, top), (right, top), (right, bottom), (left, bottom))


def oval(
    paint: str | RGB, x: float, y: float, rx: float, ry: float | None = None, turn: float = 0.0
) -> Shape:
    """An ellipse about (x, y), turned clockwise by ``turn`` degrees."""
    angle = np.linspace(0, 2 * math.pi, 22, endpoint=False)
    ring = np.stack([np.cos(angle) * rx, np.sin(angle) * (rx if ry is None else ry)], axis=1)
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    return Shape(ring @ np.array([[cos, sin], [-sin, cos]]) + (x, y), paint)


def dome(paint: str | RGB, x: float, y: float, rx: float, ry: float) -> Shape:
    """The upper half of an ellipse, standing on y."""
    angle = np.linspace(math.pi, 2 * math.pi, 16)
    return Shape(np.stack([x + np.cos(angle) * rx, y + np.sin(angle) * ry], axis=1), paint)


def blob(paint: str | RGB, *points: Point) -> Shape:
    """A smooth closed curve through the points."""
    return Shape(_smooth(np.array(points, dtype=float), closed=True), paint)


def stroke(paint: str | RGB, width: float, *points: Point) -> Shape:
    """A smooth open stroke through the points."""
    track = np.array(points, dtype=float)
    return Shape(track if len(track) < 3 else _smooth(track, closed=False), paint, width)


def _smooth(points: np.ndarray, *, closed: bool) -> np.ndarray:
    """Catmull-Rom: five steps from each point to the next."""
    ends = (points[-1:], points[:2]) if closed else (points[:1], points[-1:])
    padded = np.concatenate([ends[0], points, ends[1]])
    a, b, c, d = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, 5, endpoint=False)[None, :, None]
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    track = curve.reshape(-1, 2)
    return track if closed else np.concatenate([track, points[-1:]])


def place(shape: Shape, *, matrix: np.ndarray, offset: np.ndarray, scale: float) -> Shape:
    """The shape moved into the frame: points @ matrix + offset, strokes times scale."""
    return Shape(shape.points @ matrix + offset, shape.paint, shape.width * scale)
