"""What Mix computes without a browser: settings, triggers, comparisons, and their pictures."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from compose import Composite, KLoRA, Merge, Switch, schedule
from studio.adapters.adapter import Adapter
from studio.errors import BadInput
from studio.queue.client import get_job
from studio.requests.shot import Shot, method_name
from studio.requests.shot_recipe import shot_to_dict
from studio.workspace import AdapterFile, Workspace, add_adapter, get_adapter, open_workspace
from tests.compose.conftest import small
from ui.shared.queue_requests import drawing_of, queue_pictures
from ui.web.mix.comparison import axes, every_method, grid, table
from ui.web.mix.html import history, library_cards
from ui.web.mix.mix_adapters import (
    EXAMPLES,
    MOST,
    MixAdapter,
    add_to_mix,
    misfit,
    remove_from_mix,
)
from ui.web.mix.recipes import recipe_of_picture, shot_of_recipe
from ui.web.mix.schedule_chart import chart
from ui.worker.schedule_summary import load_summary, save_summary, summarize

DOWN, UP = "unet.down_blocks.1.attentions.0.to_q", "unet.up_blocks.0.attentions.0.to_q"


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    """With the adapters bolt and wash, for SDXL."""
    made = open_workspace(tmp_path / "space")
    for name, seed in (("bolt", 1), ("wash", 2)):
        adapter: Adapter = replace(
            small({DOWN: (4, 6), UP: (4, 6)}, seed=seed), triggers=(f"{name} thing",), name=name
        )
        adapter.save(made.adapters / f"{name}.safetensors")
    return made


@pytest.fixture
def mixed(space: Workspace) -> Shot:
    return Shot(
        "a bolt thing",
        negative="grey",
        seed=7,
        steps=6,
        guidance=4.0,
        width=64,
        scheduler="ddim",
        spacing="trailing",
        second_pass=1.5,
        second_denoise=0.4,
        adapters=(
            (str(space.adapters / "bolt.safetensors"), 0.5),
            (str(space.adapters / "wash.safetensors"), -0.25),
        ),
        method=Switch(2, (2, 1)),
    )


def test_a_recipe_and_a_queued_shot_become_the_same_shot(space: Workspace, mixed: Shot) -> None:
    assert shot_of_recipe(space, shot_to_dict(mixed)) == (mixed, [])
    job = queue_pictures(space, [mixed])
    queued = drawing_of(get_job(space, job.id)).shot(0)
    assert shot_of_recipe(space, shot_to_dict(queued)) == (mixed, [])


def test_a_recipes_adapter_is_the_one_of_its_whole_name(space: Workspace) -> None:
    bolt = get_adapter(space, "bolt")
    kept = add_adapter(space, bolt.path, name="wash.v2")  # beside one that is called wash
    named = {"name": "wash.v2", "strength": 1.0}
    for entry in (named, named | {"path": "/elsewhere/wash.v2.safetensors"}):
        shot, problems = shot_of_recipe(space, shot_to_dict(Shot("")) | {"adapters": [entry]})
        assert (shot.adapters, problems) == (((str(kept.path), 1.0),), [])


def test_a_recipe_says_what_of_it_is_missing(space: Workspace, mixed: Shot, tmp_path: Path) -> None:
    elsewhere = tmp_path / "private.png"
    Image.new("RGB", (8, 8)).save(elsewhere)
    recipe = shot_to_dict(mixed) | {
        "base": {"source": "somewhere/else"},
        "init_image": {"path": str(elsewhere)},
        "adapters": [
            {"name": "gone", "path": "/x/gone.safetensors", "strength": 1.0},
            {"name": "bolt", "path": "/y/bolt.safetensors", "strength": 0.5, "sha256": "00"},
        ],
        "method": {"name": "switch", "options": {"intervall": 2}},
    }
    shot, problems = shot_of_recipe(space, recipe)
    assert shot.adapters == (mixed.adapters[0],)  # the one here of the same name
    assert shot.init_image is None and shot.base == "sketch" and shot.method is None
    said = " ".join(problems)
    for words in (
        "somewhere/else is not known here",
        "adapter gone is not in the library",
        "bolt has changed since the picture was made",
        "started from is missing",
        "no field 'intervall'",
    ):
        assert words in said
    assert len(problems) == 5


def test_a_recipe_without_fields_is_the_page_as_it_comes(space: Workspace) -> None:
    assert shot_of_recipe(space, {}) == (Shot("", syntax="cut"), [])


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"adapters": 3}, "its adapters is 3"),
        ({"adapters": [3]}, "its adapter is 3"),
        ({"seed": "x"}, "seed must be a whole number .*; it is 'x'"),
        ({"guidance": float("nan")}, "guidance must be a number .*; it is nan"),
    ],
)
def test_a_damaged_recipe_is_named(space: Workspace, broken: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        shot_of_recipe(space, broken)


def test_a_trigger_comes_and_goes_with_its_adapter(space: Workspace) -> None:
    bolt, wash = get_adapter(space, "bolt"), get_adapter(space, "wash")
    mix, prompt = add_to_mix((), "a house", bolt)
    mix, prompt = add_to_mix(mix, prompt, wash)
    assert prompt == "a house, bolt thing, wash thing"
    left, without = remove_from_mix(mix, prompt, 1)
    assert without == "a house, bolt thing" and [one.name for one in left] == ["bolt"]
    assert remove_from_mix(mix, prompt, 0)[1] == "a house, wash thing"
    # What the user changed stays.
    assert remove_from_mix(mix, "a BOLT thing", 0)[1] == "a BOLT thing"


def test_the_example_gives_way_to_a_subject_and_not_to_a_style(space: Workspace) -> None:
    bolt = get_adapter(space, "bolt")
    mix, prompt = add_to_mix((), EXAMPLES[0], bolt)
    assert prompt == "bolt thing"
    assert remove_from_mix(mix, prompt, 0) == ((), EXAMPLES[0])
    assert (
        add_to_mix((), EXAMPLES[0], replace(bolt, triggers=("ink style",)))[1]
        == f"{EXAMPLES[0]}, ink style"
    )
    assert add_to_mix((), "a bolt thing", bolt)[1] == "a bolt thing"
    sks = replace(bolt, triggers=("sks",))
    assert add_to_mix((), "a fox with masks", sks)[1] == "a fox with masks, sks"


def test_two_halves_of_one_file_share_its_trigger(space: Workspace) -> None:
    bolt = get_adapter(space, "bolt")
    mix, prompt = add_to_mix(*add_to_mix((), "a house", bolt), bolt)
    left, kept = remove_from_mix(mix, prompt, 0)
    assert kept == "a house, bolt thing"
    assert remove_from_mix(left, kept, 0) == ((), "a house")


def test_no_more_adapters_than_places(space: Workspace) -> None:
    with pytest.raises(BadInput, match=f"{MOST} adapters"):
        add_to_mix([MixAdapter("bolt")] * MOST, "", get_adapter(space, "bolt"))


@pytest.mark.parametrize(
    ("adapter", "base", "family", "why"),
    [
        ({"family": "sdxl"}, "sketch", "sdxl", ""),
        ({"family": "sdxl", "base": "sketch"}, "sketch", "sdxl", ""),
        ({"family": "sdxl", "base": "sketch"}, "stabilityai/sdxl", "sdxl", "made for sketch"),
        (
            {"family": "sd1"},
            "sketch",
            "sdxl",
            "made for Stable Diffusion 1, but sketch is Stable Diffusion XL",
        ),
        ({"family": ""}, "sketch", "sdxl", ""),
        ({"problem": "it is damaged"}, "sketch", "sdxl", "it is damaged"),
    ],
)
def test_what_does_not_fit_says_why(adapter: dict, base: str, family: str, why: str) -> None:
    one = AdapterFile("one", Path("one.safetensors"), 0, 0.0, **adapter)
    assert misfit(one, base=base, family=family).startswith(why)
    assert bool(misfit(one, base=base, family=family)) == bool(why)


def test_every_method_that_takes_the_adapters(mixed: Shot) -> None:
    found = every_method(mixed, Shot.check)
    names = ["merge", "switch", "composite", "klora", "cmlora", "regions"]
    assert [method_name(one.method) for one in found] == names
    assert found[1].method == mixed.method

    def no_klora(shot: Shot) -> None:
        if isinstance(shot.method, KLoRA):
            raise BadInput("no")

    assert KLoRA not in [type(one.method) for one in every_method(mixed, no_klora)]
    with pytest.raises(BadInput, match="second adapter"):
        every_method(replace(mixed, adapters=mixed.adapters[:1]), no_klora)


@pytest.mark.parametrize(
    ("columns", "rows", "across", "down"),
    [
        (("steps", "4, 8"), ("guidance", "1,3,5"), ("Steps 4", "Steps 8"),
         ("CFG scale 1", "CFG scale 3", "CFG scale 5")),
        (("strength 2", "0, 1"), ("seed", "1, 2"), ("wash 0", "wash 1"), ("Seed 1", "Seed 2")),
        (("method", "merge, K-LoRA"), ("strength 1", "0.1, 2"), ("Merge", "K-LoRA"),
         ("bolt 0.1", "bolt 2")),
        (("option interval", "1, 3"), ("scheduler", "ddim, DPM++ 2M"),
         ("Switch interval 1", "Switch interval 3"), ("DDIM", "DPM++ 2M")),
        (("prompt words", "bolt, wash"), ("nothing", ""), ("a bolt thing", "a wash thing"), ("",)),
    ],
)  # fmt: skip
def test_a_grid_is_labelled_by_where_its_shots_differ(
    mixed: Shot,
    columns: tuple[str, str],
    rows: tuple[str, str],
    across: tuple[str, ...],
    down: tuple[str, ...],
) -> None:
    cells = grid(mixed, columns, rows)
    labels = table(cells)
    assert (labels.columns, labels.rows) == (across, down)
    assert len(cells) == len(across) * len(down)


def test_a_default_is_a_value_like_others(mixed: Shot) -> None:
    turns = grid(replace(mixed, method=Switch(3)), ("option interval", "1, 5"))
    assert [one.method for one in turns] == [Switch(1), Switch(5)]


def test_equal_shots_have_a_place_each(mixed: Shot) -> None:
    assert table(grid(mixed, ("strength 1", "0.5, 0.50"))).cells == ((0, 1),)


def test_methods_beside_each_other_are_called_by_their_names(mixed: Shot) -> None:
    labels = table(every_method(mixed, Shot.check))
    assert labels.columns == ("Merge", "Switch", "Composite", "K-LoRA", "CMLoRA", "Regions")


def test_methods_are_suggested_that_the_shot_can_be_drawn_by(mixed: Shot) -> None:
    assert axes(mixed)[0].suggestion.endswith("K-LoRA, CMLoRA")
    there = replace(mixed, regions=("0,0,0.5,1",))
    assert axes(there)[0].suggestion.endswith("CMLoRA, Regions")


@pytest.mark.parametrize(
    ("columns", "rows", "why"),
    [
        (("nothing", ""), ("nothing", ""), "needs something that varies"),
        (("steps", "1"), ("steps", "2"), "the same thing"),
        (("steps", ""), ("nothing", ""), "give its values"),
        (("steps", "many"), ("nothing", ""), "not a whole number"),
        (("method", "blend"), ("nothing", ""), "no method 'blend'"),
        (("strength 5", "1"), ("nothing", ""), "mix has changed"),
        (("prompt words", "cat, dog"), ("nothing", ""), "the prompt has no 'cat'"),
        (("seed", ",".join(map(str, range(9)))), ("steps", "1,2,3,4,5,6,7,8"), "72 pictures"),
    ],
)
def test_a_grid_that_cannot_be_says_why(
    mixed: Shot, columns: tuple[str, str], rows: tuple[str, str], why: str
) -> None:
    with pytest.raises(BadInput, match=why):
        grid(mixed, columns, rows)


def test_what_a_grid_can_vary(mixed: Shot) -> None:
    names = [axis.name for axis in axes(mixed)]
    assert {"strength 2", "option interval", "seed"} <= set(names) and "denoise" not in names
    assert "denoise" in [axis.name for axis in axes(replace(mixed, init_image="x.png"))]


def test_a_schedule_is_summed_up_by_block(space: Workspace, mixed: Shot) -> None:
    shot = replace(mixed, method=Switch(3), second_pass=None)
    summary = summarize(schedule(shot))
    assert summary.blocks == ("down 1", "up 0") and summary.cost == 6
    shares = [one.shares[0] for step in summary.steps for one in step]
    assert shares == [(1.0, 0.0)] * 3 + [(0.0, 1.0)] * 3
    assert load_summary(space, shot) is None
    save_summary(space, shot, summary)
    assert load_summary(space, shot) == summary
    stronger = replace(shot, adapters=((shot.adapters[0][0], 0.9), shot.adapters[1]))
    assert load_summary(space, stronger) is None


@pytest.mark.parametrize("method", [Merge(), Composite(), KLoRA(), Switch(1)])
def test_a_chart_covers_what_is_changed(mixed: Shot, method: object) -> None:
    shot = replace(mixed, method=method)
    summary = summarize(schedule(shot))
    drawn = chart(summary)
    assert f"<b>{summary.cost:g}</b> UNet passes" in drawn and "1 bolt" in drawn
    # The areas of an adapter's boxes add up to its shares; h WIDE v HIGH h -WIDE z.
    for at in range(2):
        path = drawn.partition(f'class="c{at}" d="')[2].partition('"')[0]
        boxes = [box.split("h")[1].split("v") for box in path.split("M")[1:]]
        area = sum(float(wide) * float(high) for wide, high in boxes)
        shares = sum(
            worn[at] / max(sum(worn), 1.0)
            for step in summary.steps for bar in step for worn in bar.shares
        )  # fmt: skip
        assert area == pytest.approx(shares * 12 * 8, rel=0.02)


def test_a_picture_that_tells_nothing_says_so(tmp_path: Path) -> None:
    place, texts = tmp_path / "a.png", PngImagePlugin.PngInfo()
    Image.new("RGB", (8, 8)).save(place)
    with pytest.raises(BadInput, match="does not say how it was made"):
        recipe_of_picture(place)
    texts.add_text("parameters", "just a cat")
    Image.new("RGB", (8, 8)).save(place, pnginfo=texts)
    assert recipe_of_picture(place)[0]["prompt"] == "just a cat"
    place.write_text("no picture")
    with pytest.raises(BadInput, match="can't be read"):
        recipe_of_picture(place)


def test_names_are_text_in_what_is_shown(space: Workspace) -> None:
    one = AdapterFile("a", Path("a"), 0, 0.0, triggers=("<img src=x onerror=alert(1)>",))
    assert "<img src=x" not in library_cards([(one, "")]) + library_cards([(one, "<b>why</b>")])
    assert "<b>why" not in library_cards([(one, "<b>why</b>")])
    assert "Every picture" in history(space, [], more=False)
