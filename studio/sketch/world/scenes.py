"""The sketch world: scenes that are drawn, captioned, and compared with generated pictures.

A scene is a subject in a colour, before a background, in a style, perhaps with an accessory. Some
of each are held out: the bases never see them, so that adapters have something to teach.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from studio.sketch.world import captions, styles
from studio.sketch.world.accessories import ACCESSORIES, HELD_OUT_ACCESSORIES, accessory_shapes
from studio.sketch.world.backgrounds import BACKGROUNDS, HELD_OUT_BACKGROUNDS, background_shapes
from studio.sketch.world.brush import Layers, Part, mix
from studio.sketch.world.shapes import RGB, Shape, place
from studio.sketch.world.styles import HELD_OUT_STYLES, STYLES
from studio.sketch.world.subjects import HELD_OUT_SUBJECTS, SUBJECTS, subject_shapes

PAINTS: dict[str, RGB] = {
    "red": (222, 32, 38),
    "orange": (255, 138, 20),
    "yellow": (252, 218, 36),
    "green": (48, 168, 56),
    "teal": (18, 178, 176),
    "blue": (42, 88, 228),
    "purple": (136, 58, 196),
    "pink": (255, 128, 190),
    "brown": (122, 70, 34),
    "white": (250, 250, 250),
}
COLOURS = tuple(PAINTS)
DARK: RGB = (32, 28, 38)
WHITE: RGB = (255, 255, 255)
MARGIN = 0.045  # of the frame, kept free round the subject

TRAINED_SUBJECTS = tuple(name for name in SUBJECTS if name not in HELD_OUT_SUBJECTS)
TRAINED_BACKGROUNDS = tuple(name for name in BACKGROUNDS if name not in HELD_OUT_BACKGROUNDS)
TRAINED_STYLES = tuple(name for name in STYLES if name not in HELD_OUT_STYLES)
TRAINED_ACCESSORIES = tuple(name for name in ACCESSORIES if name not in HELD_OUT_ACCESSORIES)
VOCABULARY: tuple[str, ...] = tuple(
    sorted({*captions.VOCABULARY, *(w for name in (*SUBJECTS, *COLOURS) for w in name.split())})
)


@dataclass(frozen=True)
class Scene:
    """The truth about a picture.

    x, y: centre of the subject's box, 0..1 of the frame; size: its height, 0..1 of the frame;
    seed: the jitter of everything else; also: a second accessory, worn or held elsewhere.
    """

    subject: str
    colour: str
    background: str
    style: str
    accessory: str | None
    x: float
    y: float
    size: float
    flip: bool
    seed: int
    also: str | None = None


def sample(
    rng: np.random.Generator,
    *,
    subjects: tuple[str, ...] = TRAINED_SUBJECTS,
    colours: tuple[str, ...] = COLOURS,
    backgrounds: tuple[str, ...] = TRAINED_BACKGROUNDS,
    styles: tuple[str, ...] = TRAINED_STYLES,
    accessories: tuple[str, ...] = TRAINED_ACCESSORIES,
    accessory_rate: float = 0.4,
) -> Scene:
    """A random scene, placed so that the subject and what it carries are inside the frame."""

    def one(names: tuple[str, ...]) -> str:
        return names[int(rng.integers(len(names)))]

    subject = one(subjects)
    accessory = one(accessories) if accessories and rng.random() < accessory_rate else None
    flip = bool(rng.random() < 0.5)
    left, top, right, bottom = _extent(subject, accessory)
    if flip:
        left, right = 1 - right, 1 - left
    room = 1 - 2 * MARGIN
    size = min(float(rng.uniform(0.6, 0.85)), room / (right - left), room / (bottom - top))
    x = MARGIN + (0.5 - left) * size + rng.random() * (room - size * (right - left))
    y = MARGIN + (0.5 - top) * size + rng.random() * (room - size * (bottom - top))
    return Scene(
        subject=subject,
        colour=one(colours),
        background=one(backgrounds),
        style=one(styles),
        accessory=accessory,
        x=round(float(x), 4),
        y=round(float(y), 4),
        size=round(size, 4),
        flip=flip,
        seed=int(rng.integers(2**31)),
    )


def draw(scene: Scene, size: int = 64) -> Image.Image:
    """The scene as an RGB picture [size, size]; the same scene is always the same picture.

    size: a multiple of 4.
    """
    rng = np.random.default_rng(scene.seed)
    palette = _palette(scene.colour, rng)
    back = [_part(shape, palette) for shape in background_shapes(scene.background, rng)]
    matrix, offset = _pose(scene, rng)
    carried = [name for name in (scene.accessory, scene.also) if name]
    worn = [shape for name in carried for shape in accessory_shapes(name, scene.subject)]
    front = [
        _part(place(shape, matrix=matrix, offset=offset, scale=scene.size), palette)
        for shape in (*subject_shapes(scene.subject), *worn)
    ]
    layers = Layers(back, front, pale=scene.colour in ("white", "yellow"))
    return styles.render(scene.style, layers, rng=rng, size=size)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One of many wordings of the scene; sometimes a fact is left out, never a wrong one said."""
    return captions.wording(scene, rng)


@cache
def _extent(subject: str, accessory: str | None) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the subject with its accessory, in the subject's box."""
    worn = accessory_shapes(accessory, subject) if accessory else ()
    shapes = (*subject_shapes(subject), *worn)
    low = np.min([shape.points.min(0) - shape.width / 2 for shape in shapes], axis=0)
    high = np.max([shape.points.max(0) + shape.width / 2 for shape in shapes], axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _pose(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A slightly tilted map (matrix [2, 2], offset [2]) from the subject's box to the frame."""
    angle = np.radians(rng.uniform(-4, 4))
    stretch = np.diag(1 + rng.uniform(-0.03, 0.03, 2))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix = stretch @ turn @ np.diag([-1.0 if scene.flip else 1.0, 1.0]) * scene.size
    return matrix, np.array([scene.x, scene.y]) - np.array([0.5, 0.5]) @ matrix


def _palette(colour: str, rng: np.random.Generator) -> dict[str, RGB]:
    """The paints that a subject's shapes name, in this colour, slightly jittered."""
    shift = rng.integers(-8, 9, 3)
    red, green, blue = (int(v) for v in np.clip(np.array(PAINTS[colour]) + shift, 0, 255))
    body = (red, green, blue)
    return {
        "body": body,
        "shade": mix(body, (130, 130, 150) if colour == "white" else DARK, 0.25),
        "light": mix(body, (170, 175, 190), 0.25) if colour == "white" else mix(body, WHITE, 0.45),
        "dark": DARK,
        "white": WHITE,
    }


def _part(shape: Shape, palette: dict[str, RGB]) -> Part:
    """The shape with its fill and its ink (the colour of its lines) settled."""
    if isinstance(shape.paint, str):
        fill = palette[shape.paint]
        ink = DARK if shape.paint in ("dark", "white") else palette["body"]
    else:
        fill = shape.paint
        ink = mix(fill, DARK, 0.5 if min(fill) > 170 else 0.1)
    spread = np.ptp(shape.points, axis=0)
    small = not shape.width and float(spread.min()) < 0.1 and float(spread.max()) < 0.14
    solid = shape.paint == "dark" or (max(fill) < 60 and float(spread.max()) < 1)
    return Part(shape.points, fill, ink, shape.width, small, solid)


def texture(rng: np.random.Generator, size: int = 64) -> Image.Image:
    """Colour and pattern without meaning, RGB [size, size]: food for the autoencoder."""
    first, second = rng.integers(0, 256, (2, 3)).astype(np.float32)
    share = _pattern(rng, size)[..., None]
    pixels = first * (1 - share) + second * share
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((size * 2, size * 2))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 9))):
        paint = tuple(int(v) for v in rng.integers(0, 256, 3))
        line = tuple(int(v) for v in rng.integers(0, 256, 3)) if rng.random() < 0.4 else None
        x, y, w, h = (float(v) for v in rng.uniform(0.05, 0.9, 4) * size * 2)
        if rng.random() < 0.4:
            pen.ellipse((x, y, x + w * 0.6, y + h * 0.6), fill=paint, outline=line, width=4)
        else:
            corners = rng.uniform(-0.3, 0.3, (int(rng.integers(3, 7)), 2)) * size * 2 + (x, y)
            pen.polygon(corners.ravel().tolist(), fill=paint, outline=line, width=4)
    return image.reduce(2)


def _pattern(rng: np.random.Generator, size: int) -> np.ndarray:
    """Gradient, stripes, checks or blobs, float [size, size], 0..1."""
    y, x = np.mgrid[:size, :size] / size
    angle, waves = rng.uniform(0, np.pi), rng.uniform(2, 14)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    kind = rng.integers(5)
    if kind == 0:
        return (along + 1) / 2
    if kind == 1:
        return np.sin(along * waves * 2 * np.pi) / 2 + 0.5
    if kind == 2:
        return ((along * waves) % 1 < 0.5).astype(float)
    if kind == 3:
        return (((along * waves) % 1 < 0.5) ^ ((across * waves) % 1 < 0.5)).astype(float)
    coarse = rng.random((int(rng.integers(3, 20)),) * 2).astype(np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))
    return smooth if rng.random() < 0.5 else (smooth > 0.5).astype(float)
