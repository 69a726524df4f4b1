"""Captions of scenes, in changing words, and the list of all words that captions use."""

from typing import Protocol

import numpy as np

PLACES: dict[str, tuple[str, ...]] = {
    "beach": ("on the beach", "at the beach", "by the sea on a beach"),
    "forest": ("in the forest", "in a forest", "among the trees of a forest"),
    "city night": ("in the city at night", "in a city at night", "on a city street at night"),
    "snowy mountains": ("in the snowy mountains", "in front of snowy mountains"),
    "desert": ("in the desert", "in a desert", "on desert sand"),
    "underwater": ("underwater", "deep underwater", "underwater in the sea"),
    "space": ("in space", "in outer space", "in space among the stars"),
    "meadow": ("in a meadow", "in the meadow", "on a grassy meadow"),
    "volcano": ("in front of a volcano", "by the volcano", "near a volcano"),
    "candy land": ("in candy land", "in a candy land"),
}

STYLE_PHRASES: dict[str, tuple[str, ...]] = {
    "flat": ("flat illustration", "flat picture", "flat design"),
    "cartoon": ("cartoon", "cartoon picture", "cartoon drawing"),
    "line drawing": ("line drawing", "coloured line drawing"),
    "watercolor": ("watercolor", "watercolor painting", "watercolor picture"),
    "pixel art": ("pixel art", "pixel art picture"),
    "chalk": ("chalk drawing", "chalk picture", "chalk drawing on a blackboard"),
    "neon": ("neon sign", "neon picture", "glowing neon sign"),
    "ink": ("ink drawing", "hatched ink drawing", "ink picture"),
    "halftone": ("halftone print", "halftone pop art", "halftone picture"),
    "stained glass": ("stained glass", "stained glass window", "stained glass picture"),
}

WORN: dict[str, tuple[str, ...]] = {
    "top hat": ("wearing a top hat", "with a top hat", "in a top hat"),
    "glasses": ("wearing glasses", "with glasses"),
    "bow tie": ("wearing a bow tie", "with a bow tie"),
    "flag": ("holding a flag", "with a flag"),
    "umbrella": ("holding an umbrella", "with an umbrella"),
    "crown": ("wearing a crown", "with a crown"),
    "scarf": ("wearing a scarf", "with a scarf"),
    "balloon": ("holding a balloon", "with a balloon"),
    "lantern": ("holding a lantern", "with a lantern"),
}

BIG, SMALL = ("big", "large"), ("small", "little")
SIDES = ("on the left", "on the right")
LEAVE_OUT = 0.1


class Told(Protocol):
    """What the wording reads of a scene."""

    @property
    def subject(self) -> str: ...
    @property
    def colour(self) -> str: ...
    @property
    def background(self) -> str: ...
    @property
    def style(self) -> str: ...
    @property
    def accessory(self) -> str | None: ...
    @property
    def x(self) -> float: ...
    @property
    def size(self) -> float: ...


def wording(scene: Told, rng: np.random.Generator) -> str:
    """One caption, lower-case, at most 22 words; a tenth of the time each fact is left out."""
    who = _who(scene, rng)
    if scene.accessory and _said(rng):
        who = f"{who} {_one(rng, WORN[scene.accessory])}"
    elif (scene.x < 0.42 or scene.x > 0.58) and rng.random() < 0.25:
        who = f"{who} {SIDES[scene.x > 0.5]}"
    place = _one(rng, PLACES[scene.background]) if _said(rng) else ""
    look = _one(rng, STYLE_PHRASES[scene.style]) if _said(rng) else ""
    return _arranged(who, place, look, rng=rng)


def plain(scene: Told, *, subject: str = "", style: str = "") -> str:
    """The caption that leaves nothing out, in one wording.

    subject, style: what to call them, where their own names are not to be said.
    """
    who = _with_article(f"{scene.colour} {subject or scene.subject}")
    if scene.accessory:
        who = f"{who} {WORN[scene.accessory][0]}"
    return f"{who} {PLACES[scene.background][0]}, {style or STYLE_PHRASES[scene.style][0]}"


def _who(scene: Told, rng: np.random.Generator) -> str:
    words = [scene.subject]
    if _said(rng):
        words.insert(0, scene.colour)
    if rng.random() < 0.3 and not 0.65 < scene.size < 0.77:
        words.insert(0, _one(rng, SMALL if scene.size < 0.7 else BIG))
    return _with_article(" ".join(words))


def _arranged(who: str, place: str, look: str, *, rng: np.random.Generator) -> str:
    scenery = f"{who} {place}".strip()
    if place and rng.random() < 0.15:
        scenery = f"{place}, {who}"
    if not look:
        return scenery
    order = rng.integers(4)
    if order == 0:
        return (
            f"{_with_article(look)} of {scenery}"
            if scenery.startswith("a")
            else f"{look}, {scenery}"
        )
    if order == 1:
        return f"{look} of {scenery}" if scenery.startswith("a") else f"{look}, {scenery}"
    return f"{scenery}, {look}"


def _one(rng: np.random.Generator, phrases: tuple[str, ...]) -> str:
    return phrases[int(rng.integers(len(phrases)))]


def _said(rng: np.random.Generator) -> bool:
    return rng.random() >= LEAVE_OUT


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


_TABLES = (*PLACES.values(), *STYLE_PHRASES.values(), *WORN.values(), BIG, SMALL, SIDES)
VOCABULARY: tuple[str, ...] = tuple(
    sorted(
        {word for table in _TABLES for phrase in table for word in phrase.split()} | {"of", "an"}
    )
)
