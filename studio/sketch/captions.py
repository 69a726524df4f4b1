"""Captions of scenes: in varied words for training, and in one fixed wording for prompts."""

import numpy as np

from studio.sketch.scenes import Item, Scene

PLACES: dict[str, tuple[str, ...]] = {
    "beach": ("on the beach", "at the beach", "by the sea"),
    "forest": ("in the forest", "in a forest"),
    "city night": ("in the city at night", "in a city at night"),
    "snowy mountains": ("in the snowy mountains", "in front of snowy mountains"),
    "desert": ("in the desert", "in a desert"),
    "underwater": ("underwater", "deep underwater"),
    "space": ("in space", "in outer space"),
    "meadow": ("in a meadow", "in the meadow"),
    "volcano": ("in front of a volcano", "near a volcano"),
    "candy land": ("in candy land", "in a candy land"),
}
STYLES: dict[str, tuple[str, ...]] = {
    "3d render": ("3d render", "3d picture"),
    "flat illustration": ("flat illustration", "flat design"),
    "cartoon": ("cartoon", "cartoon drawing"),
    "watercolor": ("watercolor", "watercolor painting"),
    "pixel art": ("pixel art", "pixel art picture"),
    "chalk drawing": ("chalk drawing", "chalk on a blackboard"),
    "line drawing": ("line drawing", "drawing in lines"),
    "neon": ("neon sign", "glowing neon sign"),
    "ink drawing": ("ink drawing", "hatched ink drawing"),
    "halftone": ("halftone print", "halftone pop art"),
    "stained glass": ("stained glass", "stained glass window"),
    "mosaic": ("mosaic", "tiled mosaic"),
}
WEARS, HOLDS = ("wearing", "with", "in"), ("holding", "with")
SMALL, BIG = ("small", "little"), ("big", "large")
PLURAL = ("grapes", "cherries", "pancakes", "fries")
LEAVE_OUT = 0.08  # how often each fact is left out; captions never say anything wrong


def wording(scene: Scene, rng: np.random.Generator) -> str:
    """One of many captions of a scene, lower-case."""
    who = _who(scene, rng)
    if scene.worn and _is_said(rng):
        who = f"{who} {_carries(scene.worn, _one(rng, WEARS))}"
    if scene.held and _is_said(rng):
        who = f"{who} {_carries(scene.held, _one(rng, HOLDS))}"
    if _is_said(rng):
        who = f"{who} {_where(scene, rng)}"
    if not _is_said(rng):
        return who
    look = _one(rng, STYLES[scene.style])
    return f"{look} of {who}" if rng.integers(4) == 0 else f"{who}, {look}"


def plain(scene: Scene, *, subject: str = "", style: str = "") -> str:
    """The complete caption, in one fixed wording.

    subject, style: words to use instead of their names. With another word for the subject, its
    colour is not said: the word stands for it.
    """
    colour = "" if subject or not scene.paint.colour else f"{scene.paint.colour} "
    who = _with_article(colour + (subject or scene.subject.name))
    for item, verb in ((scene.worn, WEARS[0]), (scene.held, HOLDS[0])):
        who = f"{who} {_carries(item, verb)}" if item else who
    where = PLACES[scene.place][0] if scene.place else f"on a {scene.wall} background"
    return f"{who} {where}, {style or STYLES[scene.style][0]}"


def _who(scene: Scene, rng: np.random.Generator) -> str:
    words = [scene.subject.name]
    if scene.paint.colour and _is_said(rng):
        words.insert(0, scene.paint.colour)
    if rng.random() < 0.2 and not 0.62 < scene.size < 0.74:
        words.insert(0, _one(rng, SMALL if scene.size < 0.68 else BIG))
    return _with_article(" ".join(words))


def _carries(item: Item, verb: str) -> str:
    return f"{verb} {_with_article(item.name)}"


def _where(scene: Scene, rng: np.random.Generator) -> str:
    if scene.place:
        return _one(rng, PLACES[scene.place])
    before, plainly = _one(rng, ("on a", "before a", "against a")), _one(rng, ("plain ", ""))
    return f"{before} {plainly}{scene.wall} {_one(rng, ('background', 'wall'))}"


def _one(rng: np.random.Generator, phrases: tuple[str, ...]) -> str:
    return phrases[int(rng.integers(len(phrases)))]


def _is_said(rng: np.random.Generator) -> bool:
    return rng.random() >= LEAVE_OUT


def _with_article(noun: str) -> str:
    if noun.split()[-1] in PLURAL:
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
