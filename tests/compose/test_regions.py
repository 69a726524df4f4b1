"""Regions: where each prediction counts, against masks and sums written out by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compose import (
    Eps,
    Merge,
    Mix,
    Part,
    Regions,
    like,
    record,
    render,
    schedule,
    shot_from_dict,
)
from compose.engine.method import Call, method_of
from compose.engine.regions.crops import Box, Grid
from compose.engine.regions.masks import cropped, region_masks
from compose.regions import SideBySide
from studio.adapters.adapter import Adapter
from studio.bases.base import Base
from studio.errors import BadInput
from studio.requests.picture_file import read_recipe, save_picture
from studio.requests.regions import Region, embed_mask, read_region, region_text
from studio.requests.shot import Shot
from studio.requests.shot_recipe import shot_to_dict
from tests.compose.conftest import bits, on_layers, same_bits, small

LAYER = {"unet.a": (4, 6)}
LEFT, RIGHT = "0,0,0.5,1", "0.5,0,1,1"
HARD = Regions(blur=0, whole=0, apart=0)


def latents(base: Base, shot: Shot) -> torch.Tensor:
    return render(base, shot, output="latents")


@pytest.mark.parametrize(
    "region",
    [
        Region((0, 0.25, 0.5, 1)),
        Region((0, 0, 1, 1), None, "a (red:1.2) cat: seen from above"),
        Region((0, 0, 0.5, 1), None, "a cat", (2, 3)),
        Region((0, 0, 0.5, 1), None, None, ()),
        Region(None, "masks/hat.png", "a hat", (1,)),
        Region(None, r"C:\masks\hat.png", "a hat"),
        Region(None, "data:image/png;base64,AAA+/w==", None, (2,)),
        Region(None, "./found", None, (2,)),
        Region(None, None, "a cat", (1,)),
        Region(None, None, None, (), "a cat"),
    ],
)
def test_a_region_is_read_back_from_its_text(region: Region) -> None:
    assert read_region(region_text(region)) == region


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no part"),
        (": a cat", "names no part"),
        ("0,0,1", "no box"),
        ("0,0,64,128: a cat", "not pixels"),
        ("0.5,0,0.5,1", "is empty"),
        ("-0.1,0,0.5,1", "is empty"),
        ("0,0,nan,1", "is empty"),
        ("0,0,1,1@cat", "names no adapters"),
        ("data:image/png;base64,AAAA", "is no picture"),
        ("0,0,1,1: a [cat:dog:0.5]", "prompt editing"),
    ],
)
def test_what_is_no_region_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Shot("a cat", regions=(text,)).check()


def test_masks_sum_to_one_and_share_where_they_overlap() -> None:
    boxes = tuple(Region(box) for box in ((0, 0, 0.75, 1), (0.5, 0, 1, 0.5)))
    hard = region_masks(boxes, (4, 4), blur=0, whole=0)
    assert hard[0].tolist() == [[1, 1, 0.5, 0]] * 2 + [[1, 1, 1, 0]] * 2
    assert hard[1].tolist() == [[0, 0, 0.5, 1]] * 2 + [[0, 0, 0, 0]] * 2
    assert hard[2].tolist() == [[0, 0, 0, 0]] * 2 + [[0, 0, 0, 1]] * 2
    for blur, whole in ((0.1, 0.0), (0.0, 0.3), (0.2, 0.3)):
        masks = region_masks(boxes, (12, 20), blur=blur, whole=whole)
        np.testing.assert_allclose(masks.sum(0), 1, rtol=1e-6)
        assert masks.min() >= 0
        assert not blur or ((masks > 0.05) & (masks < 0.95)).any()
    # A part of a latent pixel counts as much of it as lies inside.
    (thin, _) = region_masks((Region((0, 0, 0.3, 1)),), (1, 2), blur=0, whole=0)
    np.testing.assert_allclose(thin, [[0.6, 0]], rtol=1e-6)


def test_the_edge_is_a_gaussians() -> None:
    left, _ = region_masks((Region((0, 0, 0.5, 1)),), (64, 64), blur=4 / 64, whole=0)
    expected = [0.5 * (1 - torch.erf(torch.tensor((x + 0.5 - 32) / 4 / 2**0.5))) for x in range(64)]
    np.testing.assert_allclose(left[10], expected, atol=0.01)


def test_whole_gives_the_rest_a_share_inside() -> None:
    left, rest = region_masks((Region((0, 0, 0.5, 1)),), (1, 2), blur=0, whole=0.25)
    np.testing.assert_allclose(left, [[0.75, 0]])
    np.testing.assert_allclose(rest, [[0.25, 1]])


def asked(method: Regions, regions: tuple[str, ...], count: int) -> list[Call]:
    pairs = [(small(LAYER, seed=at), 0.5 + at) for at in range(count)]
    bound = method.in_regions(regions)
    bound.check([adapter for adapter, _ in pairs])
    (calls,) = record(bound.prepare(on_layers(pairs), 1), 1)
    return calls


def mix(*places: int) -> Mix:
    return Mix(tuple(Part(at, 0.5 + at) for at in places))


def test_who_is_drawn_where() -> None:
    two = f"{LEFT}: a cat", f"{RIGHT}: a dog"
    assert asked(HARD, two, 2) == [Call(mix(0), prompt="a cat"), Call(mix(1), prompt="a dog")]
    # The third adapter has no region, so it is everywhere; the rest wears all.
    third = asked(Regions(whole=0.1), two, 3)
    assert [call.mix for call in third] == [mix(0, 2), mix(1, 2), mix(0, 1, 2)]
    assert third[2].prompt is None
    assert asked(Regions(whole=0.1, rest="base"), two, 3)[2].mix == mix(2)
    named = asked(HARD, (f"{LEFT}@2,3", f"{RIGHT}@"), 3)
    assert [call.mix for call in named] == [mix(0, 1, 2), mix(0)]
    assert len(asked(HARD, (LEFT,), 1)) == 2  # the right half is the rest
    assert [call.mix for call in asked(HARD, two, 0)] == [mix(), mix()]


def test_each_counts_where_it_is() -> None:
    plan = HARD.in_regions((LEFT, RIGHT)).prepare(on_layers([(small(LAYER, seed=1), 1.0)] * 2), 1)
    one, two = torch.randn(2, 1, 4, 2, 4)
    answers = {plan.asked[0][0]: one, plan.asked[1][0]: two}
    eps = Eps(lambda call: answers[call.mix], tuple(plan.areas(Grid(2, 4))))
    assert torch.equal(plan.predict(0, eps), torch.cat([one[..., :2], two[..., 2:]], -1))


def test_the_schedule_tells_each_share(forms: list[Adapter]) -> None:
    adapters = tuple((one, 1.0) for one in forms[:2])
    shot = Shot("a cat", steps=2, adapters=adapters, regions=("0,0,0.25,1", "0.25,0,1,1"))
    told = schedule(replace(shot, method=HARD))
    assert [[one.weight for one in step] for step in told.steps] == [[0.25, 0.75]] * 2
    assert told.cost == 4
    whole = schedule(replace(shot, method=Regions(whole=0.2, apart=0))).steps[0]
    assert [round(one.weight, 3) for one in whole] == [0.2, 0.6, 0.2]


def test_a_region_of_everything_is_its_adapter_alone(sdxl: Base, forms: list[Adapter]) -> None:
    before = bits(sdxl)
    shot = Shot("a cat", steps=2, adapters=((forms[0], 0.8),))
    whole = replace(shot, regions=("0,0,1,1",), method=HARD)
    assert torch.equal(latents(sdxl, whole), latents(sdxl, shot))
    asked_for = replace(shot, prompt="a star", regions=("0,0,1,1: a cat",), method=HARD)
    assert torch.equal(latents(sdxl, asked_for), latents(sdxl, shot))
    assert same_bits(sdxl, before)


def test_after_one_step_each_half_is_its_adapters(sdxl: Base, forms: list[Adapter]) -> None:
    """With guidance, each region under its own prompt; and exchanged regions are exchanged."""
    pairs = (forms[0], 0.8), (forms[1], -0.5)
    shot = Shot("a red star", negative="photo", steps=1, adapters=pairs, guidance=4.0, method=HARD)
    both = replace(shot, regions=(f"{LEFT}: a cat", f"{RIGHT}: a dog"))
    found = latents(sdxl, both)
    for pair, prompt, part in zip(pairs, ("a cat", "a dog"), found.chunk(2, -1), strict=True):
        alone = replace(shot, prompt=prompt, adapters=(pair,), method=Merge())
        expected = latents(sdxl, alone).chunk(2, -1)[0 if prompt == "a cat" else 1]
        torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-5)
    swapped = replace(both, adapters=pairs[::-1], regions=(f"{RIGHT}: a dog", f"{LEFT}: a cat"))
    torch.testing.assert_close(latents(sdxl, swapped), found, rtol=1e-4, atol=1e-5)


def test_a_crop_is_what_a_base_can_draw() -> None:
    assert Grid(8, 16).crop(Box(0.25, 0.5, 0.5, 1)) == (slice(4, 8), slice(4, 8))
    # Half the side that it was trained on at least, in whole steps, and inside of the picture.
    thin = Box(0.5, 0, 0.6, 1)
    assert Grid(8, 16, step=4, trained=8).crop(thin) == (slice(0, 8), slice(7, 11))
    assert Grid(8, 16, step=4).crop(Box(0.9, 0, 1, 0.1)) == (slice(0, 4), slice(12, 16))
    assert Grid(8, 16, trained=64).crop(Box(0, 0, 0.1, 0.1)) == (slice(0, 8), slice(0, 16))
    # A margin is a share of the shorter side, and ends where the picture does.
    assert Grid(8, 16).crop(Box(0.25, 0.5, 0.5, 1, 0.25)) == (slice(2, 8), slice(2, 10))


def test_crops_leave_nothing_out() -> None:
    """A sliver has no rest; all of the picture lies in a crop anyway."""
    for boxes in (
        ((0.0, 0.0, 0.4985, 1.0), (0.5015, 0.0, 1.0, 1.0)),
        ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 0.996, 1.0)),
    ):
        told = tuple(map(Region, boxes))
        plan = Regions(apart=0.5).in_regions([*map(region_text, told)]).prepare([], 2)
        assert isinstance(plan, SideBySide) and len(plan.asked) == 2
        grid = Grid(256, 256)
        areas = plan.areas(grid)[:, 0, 0].numpy()
        for crops, counted in zip(plan.crops, (areas[:2], areas[2:]), strict=True):
            covered = np.zeros((256, 256))
            for crop, area in zip(crops, counted, strict=True):
                covered[grid.crop(crop)] += 1
                area[grid.crop(crop)] = 0
            assert covered.min() == 1
            assert not counted.any()
        assert covered.max() == 2  # after the first steps they overlap


@pytest.mark.parametrize("box", [(0, 0, 0.995, 1), (0, 0, 1, 0.995)])
def test_whether_there_is_a_rest_does_not_depend_on_the_size(box: tuple[float, ...]) -> None:
    """A plan is made before there are latents; of these boxes the rest is as large as a sliver."""
    plan = Regions().in_regions([region_text(Region(box))]).prepare([], 2)  # pyright: ignore
    for side in ((64, 64), (8, 8), (16, 16), (48, 80)):
        areas = plan.areas(Grid(*side))
        assert len(areas) == 2 * len(plan.asked)


def test_masks_of_crops_sum_to_one() -> None:
    boxes = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    masks = region_masks(tuple(map(Region, boxes)), (8, 16), blur=0.2, whole=0)
    assert ((masks > 0.05) & (masks < 0.95)).any()
    inside = cropped(masks, [Box(*box) for box in boxes], Grid(8, 16))
    np.testing.assert_array_equal(inside[0], [[1] * 8 + [0] * 8] * 8)
    np.testing.assert_allclose(inside.sum(0), 1)
    blended = cropped(masks, [Box(*box, 0.25) for box in boxes], Grid(8, 16))
    np.testing.assert_array_equal(blended[0] == 1, [[True] * 6 + [False] * 10] * 8)
    np.testing.assert_array_equal(blended[0] == 0, [[False] * 10 + [True] * 6] * 8)
    np.testing.assert_allclose(blended.sum(0), 1)


@pytest.mark.parametrize("apart", [1, 0.01])
def test_each_region_is_a_picture_of_its_own(sdxl: Base, apart: float) -> None:
    """After one step, against a step of each half by itself, or of one that is wider."""
    method = Regions(apart=apart, blur=0)
    shot = Shot("a star", width=128, height=64, steps=1, guidance=4.0, method=method)
    found = latents(sdxl, replace(shot, regions=(f"{LEFT}: a cat", f"{RIGHT}: a dog")))
    scheduler = sdxl.scheduler()
    scheduler.set_timesteps(1)
    (time,) = scheduler.timesteps
    noise = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    noise = noise * scheduler.init_noise_sigma
    predicted = []
    wide = 8 if apart == 1 else 12  # an eighth of the height wider, in whole steps of 4
    ids = sdxl.time_ids(original=(64, 8 * wide), crop=(0, 0), target=(64, 8 * wide))
    for prompt, crop in (("a cat", noise[..., :wide]), ("a dog", noise[..., -wide:])):
        given = scheduler.scale_model_input(crop, time).expand(2, -1, -1, -1)
        with torch.no_grad():
            text = sdxl.encode_text(["", prompt])
            if sdxl.zero_negative:
                text.hidden[0] = 0
                assert text.pooled is not None
                text.pooled[0] = 0
            without, prompted = sdxl.predict(given, time, text, time_ids=ids).split(1)
        predicted.append(without + 4.0 * (prompted - without))
    halves = torch.cat([predicted[0][..., :8], predicted[1][..., -8:]], -1)
    expected = scheduler.step(halves, time, noise, return_dict=False)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_recipe_without_apart_is_drawn_without() -> None:
    shot = Shot("a cat", regions=(LEFT,))
    for method in (None, Regions(), Regions(apart=0.2)):
        assert shot_from_dict(shot_to_dict(replace(shot, method=method))).method == method
    for options in ({}, {"blur": 0.1}):
        old = shot_to_dict(shot) | {"method": {"name": "regions", "options": options}}
        assert shot_from_dict(old).method == Regions(**options, apart=0)


def test_a_mask_of_a_file_is_kept_in_the_recipe(sdxl: Base, tmp_path: Path) -> None:
    mask = Image.new("L", (320, 320))
    mask.paste(255, (0, 0, 160, 320))
    mask.save(tmp_path / "left.png")
    text = f"{tmp_path / 'left.png'}: a cat"
    drawn = Shot("a star", steps=1, regions=(text,), method=HARD)
    boxed = replace(drawn, regions=(f"{LEFT}: a cat",))
    picture = render(sdxl, drawn)
    expected = latents(sdxl, drawn)
    assert torch.equal(expected, latents(sdxl, boxed))
    save_picture(picture, tmp_path / "picture.png")
    (tmp_path / "left.png").unlink()
    again = like(read_recipe(tmp_path / "picture.png"), sdxl)
    assert again.regions == (embed_mask(again.regions[0]),) and again.method == HARD
    assert torch.equal(latents(sdxl, again), expected)


def test_what_cannot_be_drawn_in_regions_is_refused(tmp_path: Path) -> None:
    shot = Shot("a cat", regions=(LEFT,))
    assert method_of(shot) == Regions().in_regions((LEFT,))
    with pytest.raises(BadInput, match="merge has no use"):
        method_of(replace(shot, method=Merge()))
    two = [small(LAYER, seed=at) for at in range(2)]
    for method, regions, said in (
        (Regions(), (), "say where each adapter is drawn"),
        (Regions(blur=1), (LEFT,), "blur must be a number of at least 0 and below 1; it is 1"),
        (Regions(whole=-0.1), (LEFT,), "whole must be a number of at least 0"),
        (Regions(masks="none"), (LEFT,), "masks"),  # pyright: ignore
        (Regions(apart=1.1), (LEFT,), "apart must be a number from 0 to 1; it is 1.1"),
        (Regions(), ("found@1",), "'found@1' is to be found, which needs masks attention"),
        (Regions(contrast=0.1), (LEFT,), "take masks attention too"),
        (Regions(masks="attention"), (LEFT,), "write found in the place of the box"),
        (Regions(masks="attention"), ("found@3",), "regions: there is no adapter 3"),
        (Regions(), (f"{LEFT}@3",), "regions: there is no adapter 3"),
    ):
        with pytest.raises(BadInput, match=said):
            method.in_regions(regions).check(two)
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    with pytest.raises(BadInput, match="black everywhere"):
        embed_mask(str(tmp_path / "black.png"))
