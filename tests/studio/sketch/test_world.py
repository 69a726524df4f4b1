"""The sketch world draws what it says and says what it draws."""

import colorsys
import dataclasses

import numpy as np
import pytest

from studio.sketch.corpus import any_scene
from studio.sketch.world import captions
from studio.sketch.world import scenes as world

PLAIN = world.Scene(
    subject="cat",
    colour="red",
    background="space",
    style="flat",
    accessory=None,
    x=0.5,
    y=0.5,
    size=0.6,
    flip=False,
    seed=7,
)


def _pixels(scene: world.Scene) -> np.ndarray:
    """int [64, 64, 3]"""
    return np.asarray(world.draw(scene)).astype(int)


def test_the_same_scene_is_the_same_picture() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        scene = any_scene(rng)
        assert np.array_equal(_pixels(scene), _pixels(dataclasses.replace(scene)))
    assert not np.array_equal(_pixels(PLAIN), _pixels(dataclasses.replace(PLAIN, seed=8)))


def test_a_picture_can_be_drawn_larger() -> None:
    for style in world.STYLES:
        picture = world.draw(dataclasses.replace(PLAIN, style=style), size=96)
        assert (picture.size, picture.mode) == ((96, 96), "RGB")


@pytest.mark.parametrize("accessory", world.ACCESSORIES)
@pytest.mark.parametrize("subject", world.SUBJECTS)
def test_every_accessory_shows_on_every_subject(subject: str, accessory: str) -> None:
    rng = np.random.default_rng([world.SUBJECTS.index(subject), world.ACCESSORIES.index(accessory)])
    scene = world.sample(
        rng,
        subjects=(subject,),
        styles=world.STYLES,
        accessories=(accessory,),
        accessory_rate=1.0,
    )
    assert scene.accessory == accessory
    bare = dataclasses.replace(scene, accessory=None)
    changed = np.abs(_pixels(scene) - _pixels(bare)).max(-1) > 24
    assert changed.sum() > 40


def test_a_second_accessory_leaves_the_first_as_it_is() -> None:
    crowned = dataclasses.replace(PLAIN, accessory="crown")
    both = dataclasses.replace(crowned, also="flag")
    bare, first, second = (_pixels(one) for one in (PLAIN, crowned, both))
    flag = np.abs(second - first).max(-1) > 24
    crown = np.abs(first - bare).max(-1) > 24
    assert flag.sum() > 40 and crown.sum() > 40
    assert not (flag & crown).any()


@pytest.mark.parametrize("style", world.STYLES)
@pytest.mark.parametrize("subject", world.SUBJECTS)
def test_every_subject_shows_in_every_style(subject: str, style: str) -> None:
    """Another colour changes the picture where the subject is, and only there."""
    rng = np.random.default_rng([world.SUBJECTS.index(subject), world.STYLES.index(style)])
    scene = world.sample(rng, subjects=(subject,), colours=("red",), styles=(style,))
    other = dataclasses.replace(scene, colour="blue")
    change = np.abs(_pixels(scene) - _pixels(other)).max(-1)
    assert (change > 40).sum() > 150
    rim = np.concatenate([change[0], change[-1], change[:, 0], change[:, -1]])
    assert (rim > 110).sum() < 8  # a block of pixel art or the end of a glow may touch it


@pytest.mark.parametrize("style", world.STYLES)
@pytest.mark.parametrize("colour", [c for c in world.COLOURS if c not in ("white", "brown")])
def test_the_subject_keeps_its_hue_in_every_style(style: str, colour: str) -> None:
    """The most saturated of the pixels that depend on the colour have, on average, its hue."""
    scene = dataclasses.replace(PLAIN, subject="apple", colour=colour, style=style, size=0.8)
    pixels, plain = _pixels(scene), _pixels(dataclasses.replace(scene, colour="white"))
    body = pixels[np.abs(pixels - plain).max(-1) > 40]
    vivid = body[np.argsort(np.ptp(body, axis=1))[len(body) // 2 :]].mean(0) / 255
    paint = np.array(world.PAINTS[colour]) / 255
    apart = abs(colorsys.rgb_to_hsv(*vivid)[0] - colorsys.rgb_to_hsv(*paint)[0])
    assert min(apart, 1 - apart) < 0.06


def test_default_scenes_leave_the_held_out_names_out() -> None:
    rng = np.random.default_rng(3)
    scenes = [world.sample(rng) for _ in range(2000)]
    held_out = {
        "subject": world.HELD_OUT_SUBJECTS,
        "background": world.HELD_OUT_BACKGROUNDS,
        "style": world.HELD_OUT_STYLES,
        "accessory": world.HELD_OUT_ACCESSORIES,
    }
    for field, names in held_out.items():
        seen = {getattr(scene, field) for scene in scenes}
        assert not seen & set(names)
    assert {scene.subject for scene in scenes} == set(world.TRAINED_SUBJECTS)
    assert 0.35 < np.mean([scene.accessory is not None for scene in scenes]) < 0.45


def test_captions_tell_the_truth_in_known_words() -> None:
    rng = np.random.default_rng(4)
    tables = {
        "background": captions.PLACES,
        "style": captions.STYLE_PHRASES,
        "accessory": captions.WORN,
    }
    named = {field: 0 for field in (*tables, "colour")}
    for _ in range(3000):
        scene = any_scene(rng)
        text = world.caption(scene, rng)
        words = text.replace(",", " ").split()
        assert len(words) <= 22 and set(words) <= set(world.VOCABULARY)
        assert scene.subject in words
        assert not (set(world.COLOURS) - {scene.colour}) & (set(words) - {"green"})
        named["colour"] += scene.colour in words
        for field, table in tables.items():
            truth = getattr(scene, field)
            if truth is not None:
                named[field] += any(phrase in text for phrase in table[truth])
    assert named["accessory"] / 3000 > 0.4 * 0.85
    assert all(0.86 < named[field] / 3000 < 0.96 for field in ("colour", "background", "style"))


def test_textures_differ() -> None:
    rng = np.random.default_rng(5)
    pictures = [np.asarray(world.texture(rng)) for _ in range(20)]
    assert all(picture.shape == (64, 64, 3) for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 20
