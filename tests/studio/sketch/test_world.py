"""The sketch world draws what it says and says what it draws."""

import dataclasses

import numpy as np
import pytest

from studio.sketch import captions, corpus
from studio.sketch import scenes as world
from studio.sketch.art import choose_design
from studio.sketch.draw import draw, draw_batch

SCENES = [world.sample_any(np.random.default_rng([1, i])) for i in range(400)]


def _pixels(scene: world.Scene) -> np.ndarray:
    """int [128, 128, 3]"""
    return np.asarray(draw(scene)).astype(int)


def _scene(**choice: object) -> world.Scene:
    """An apple in space that wears and holds nothing, with some of it changed."""
    plain = world.sample(
        np.random.default_rng(7),
        subjects=("apple",),
        styles=("3d render",),
        places=("space",),
        paint=world.Paint(),
        bare=True,
    )
    return dataclasses.replace(plain, **choice)  # pyright: ignore


def test_the_same_scene_is_the_same_picture() -> None:
    for scene in SCENES[:12]:
        assert np.array_equal(_pixels(scene), _pixels(dataclasses.replace(scene)))
    grainy = _scene(style="watercolor")
    assert not np.array_equal(_pixels(grainy), _pixels(dataclasses.replace(grainy, seed=8)))


def test_a_batch_draws_each_scene_as_it_is_drawn_alone() -> None:
    """Styles without grain: those with it draw their chance for the whole batch."""
    scenes = [one for one in SCENES if one.style in ("3d render", "flat illustration", "neon")][:6]
    together = draw_batch(scenes)
    for scene, picture in zip(scenes, together, strict=True):
        alone = np.asarray(draw(scene)) / 255
        np.testing.assert_allclose(picture.permute(1, 2, 0).numpy(), alone, atol=2 / 255)


@pytest.mark.parametrize("role", ["worn", "held"])
@pytest.mark.parametrize("style", world.STYLES)
def test_what_is_carried_shows_in_every_style(role: str, style: str) -> None:
    name = {"worn": "crown", "held": "balloon"}[role]
    item = world.Item(name, choose_design(role, name, style, np.random.default_rng(0)))
    bare = _scene(style=style, size=0.6, bottom=0.95)
    changed = _pixels(bare) - _pixels(dataclasses.replace(bare, **{role: item}))
    assert (np.abs(changed).max(-1) > 24).sum() > 150


@pytest.mark.parametrize("style", world.STYLES)
def test_a_subject_shows_in_every_style_and_fits_the_frame(style: str) -> None:
    """Another colour changes the picture where the subject is, and not at the frame's edge."""
    scene = _scene(style=style, paint=world.Paint("red"))
    change = np.abs(_pixels(scene) - _pixels(_scene(style=style, paint=world.Paint("blue"))))
    change = change.max(-1)
    assert (change > 24).sum() > 300
    assert np.concatenate([change[0], change[:, 0], change[:, -1]]).max() < 110


def test_patterns_lie_on_the_subject_alone() -> None:
    plain = _pixels(_scene(paint=world.Paint("pink")))
    for pattern in world.PATTERNS[1:]:
        painted = _pixels(_scene(paint=world.Paint("pink", pattern, "teal")))
        share = (np.abs(plain - painted).max(-1) > 40).mean()
        assert 0.02 < share < 0.5


def test_default_scenes_leave_out_what_is_held_out() -> None:
    rng = np.random.default_rng(3)
    scenes = [world.sample(rng) for _ in range(3000)]
    assert {one.subject.name for one in scenes} == set(world.TRAINED_SUBJECTS)
    assert {one.style for one in scenes} == set(world.TRAINED_STYLES)
    assert {one.place for one in scenes if one.place} == set(world.TRAINED_PLACES)
    assert {one.worn.name for one in scenes if one.worn} == set(world.TRAINED_WORN)
    assert {one.held.name for one in scenes if one.held} == set(world.TRAINED_HELD)
    assert {one.paint.pattern for one in scenes} == {"plain"}
    assert 0.18 < np.mean([one.worn is not None for one in scenes]) < 0.26


def test_scenes_of_the_whole_world_have_everything() -> None:
    assert {one.style for one in SCENES} == set(world.STYLES)
    assert {one.paint.pattern for one in SCENES} == set(world.PATTERNS)
    assert {one.subject.name for one in SCENES} & set(world.HELD_OUT_SUBJECTS)


def test_captions_tell_the_truth() -> None:
    rng = np.random.default_rng(4)
    named = dict.fromkeys(("colour", "place", "style", "worn", "held"), 0)
    there = dict.fromkeys(named, 0)
    for scene in SCENES * 3:
        text = captions.wording(scene, rng)
        assert scene.subject.name in text
        facts = {
            "colour": scene.paint.colour and (f"{scene.paint.colour} ",),
            "place": captions.PLACES[scene.place] if scene.place else (scene.wall,),
            "style": captions.STYLES[scene.style],
            "worn": scene.worn and (scene.worn.name,),
            "held": scene.held and (scene.held.name,),
        }
        for fact, words in facts.items():
            there[fact] += bool(words)
            named[fact] += bool(words) and any(one in text for one in words)
    assert all(named[fact] / there[fact] > 0.86 for fact in named)
    assert named["style"] < there["style"]  # each fact is left out now and then


def test_a_subject_of_another_name_keeps_its_paint_to_itself() -> None:
    scene = _scene(paint=world.Paint("pink"))
    assert captions.plain(scene) == "a pink apple in space, 3d render"
    assert captions.plain(scene, subject="sks apple") == "a sks apple in space, 3d render"


def test_textures_differ() -> None:
    rng = np.random.default_rng(5)
    pictures = [np.asarray(corpus.texture(rng)) for _ in range(20)]
    assert all(picture.shape == (128, 128, 3) for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 20
