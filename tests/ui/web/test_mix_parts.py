"""What Mix computes without a browser: settings, triggers, comparisons, and their pictures."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from compose import Composite, KLoRA, Merge, Switch, schedule
from studio.adapters.adapter import Adapter
from studio.errors import BadInput
from studio.queue.client import get_job
from studio.requests.shot import Shot
from studio.workspace import AdapterFile, Workspace, add_adapter, get_adapter, open_workspace
from tests.compose.conftest import small
from ui.shared.queue_requests import queue_pictures
from ui.web.mix.a1111_parameters import recipe_from_picture, recipe_from_text
from ui.web.mix.comparison import axes, every_method, grid, table
from ui.web.mix.html import cards, history
from ui.web.mix.picker import pick, put_back
from ui.web.mix.schedule_chart import score
from ui.web.mix.settings import (
    FIRST,
    MOST,
    Picked,
    Settings,
    misfit,
    recipe_of,
    recipe_of_queued,
    settings_of,
    shot_of,
)
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


MIXED = Settings(
    prompt="a bolt thing",
    negative="grey",
    seed=7,
    steps=6,
    guidance=4.0,
    width=64,
    scheduler="ddim",
    picked=(Picked("bolt", 0.5), Picked("wash", -0.25)),
    method="switch",
    options={"interval": 2, "order": (2, 1)},
)


def test_settings_become_a_shot_of_files_and_come_back(space: Workspace) -> None:
    shot = shot_of(space, MIXED)
    assert shot == Shot(
        "a bolt thing",
        negative="grey",
        seed=7,
        steps=6,
        guidance=4.0,
        width=64,
        scheduler="ddim",
        adapters=(
            (str(space.adapters / "bolt.safetensors"), 0.5),
            (str(space.adapters / "wash.safetensors"), -0.25),
        ),
        method=Switch(2, (2, 1)),
    )
    again, amiss = settings_of(space, recipe_of(space, MIXED))
    assert amiss == [] and shot_of(space, again) == shot
    job = queue_pictures(space, [shot])
    queued = get_job(space, job.id).arguments["shots"]
    assert isinstance(queued, list) and isinstance(queued[0], dict)
    again, amiss = settings_of(space, recipe_of_queued(queued[0]))
    assert amiss == [] and shot_of(space, again) == shot


def test_a_recipes_adapter_is_the_one_of_its_whole_name(space: Workspace) -> None:
    bolt = get_adapter(space, "bolt")
    add_adapter(space, bolt.path, name="wash.v2")  # beside one that is called wash
    told = {"name": "wash.v2", "strength": 1.0}
    for entry in (told, told | {"path": "/elsewhere/wash.v2.safetensors"}):
        settings, amiss = settings_of(space, recipe_of(space, Settings()) | {"adapters": [entry]})
        assert (settings.picked, amiss) == ((Picked("wash.v2"),), [])


def test_a_recipe_says_what_of_it_is_not_here(space: Workspace, tmp_path: Path) -> None:
    elsewhere = tmp_path / "private.png"
    Image.new("RGB", (8, 8)).save(elsewhere)
    recipe = recipe_of(space, MIXED) | {
        "base": {"source": "somewhere/else"},
        "init_image": {"path": str(elsewhere)},
        "adapters": [
            {"name": "gone", "path": "/x/gone.safetensors", "strength": 1.0},
            {"name": "bolt", "path": "/y/bolt.safetensors", "strength": 0.5, "sha256": "00"},
        ],
        "method": {"name": "switch", "options": {"intervall": 2}},
    }
    settings, amiss = settings_of(space, recipe)
    assert settings.picked == (Picked("bolt", 0.5),)  # the one here that is called so
    assert settings.start is None and settings.base == "sketch" and settings.method == "merge"
    told = " ".join(amiss)
    for words in (
        "somewhere/else, is not known here",
        "adapter gone is not in the library",
        "bolt is not the file it was made with",
        "started from is not here",
        "no option 'intervall'",
    ):
        assert words in told
    assert len(amiss) == 5


@pytest.mark.parametrize("broken", [{}, {"adapters": 3, "seed": "x", "method": [], "base": None}])
def test_a_damaged_recipe_is_the_page_as_it_comes(space: Workspace, broken: dict) -> None:
    settings, amiss = settings_of(space, broken)
    assert settings == Settings(prompt="") and amiss == []


def test_a_trigger_comes_and_goes_with_its_adapter(space: Workspace) -> None:
    bolt, wash = get_adapter(space, "bolt"), get_adapter(space, "wash")
    picked, prompt = pick((), "a house", bolt)
    picked, prompt = pick(picked, prompt, wash)
    assert prompt == "a house, bolt thing, wash thing"
    left, without = put_back(picked, prompt, 1)
    assert without == "a house, bolt thing" and [one.name for one in left] == ["bolt"]
    assert put_back(picked, prompt, 0)[1] == "a house, wash thing"
    # What the user changed stays.
    assert put_back(picked, "a BOLT thing", 0)[1] == "a BOLT thing"


def test_the_example_gives_way_to_a_subject_and_not_to_a_style(space: Workspace) -> None:
    bolt = get_adapter(space, "bolt")
    picked, prompt = pick((), FIRST, bolt)
    assert prompt == "bolt thing"
    assert put_back(picked, prompt, 0) == ((), FIRST)
    assert pick((), FIRST, replace(bolt, triggers=("ink style",)))[1] == f"{FIRST}, ink style"
    assert pick((), "a bolt thing", bolt)[1] == "a bolt thing"


def test_two_halves_of_one_file_share_its_trigger(space: Workspace) -> None:
    bolt = get_adapter(space, "bolt")
    picked, prompt = pick(*pick((), "a house", bolt), bolt)
    left, kept = put_back(picked, prompt, 0)
    assert kept == "a house, bolt thing"
    assert put_back(left, kept, 0) == ((), "a house")


def test_no_more_adapters_than_places(space: Workspace) -> None:
    with pytest.raises(BadInput, match=f"{MOST} adapters"):
        pick([Picked("bolt")] * MOST, "", get_adapter(space, "bolt"))


@pytest.mark.parametrize(
    ("adapter", "base", "family", "why"),
    [
        ({"family": "sdxl"}, "sketch", "sdxl", ""),
        ({"family": "sdxl", "base": "sketch"}, "sketch", "sdxl", ""),
        ({"family": "sdxl", "base": "sketch"}, "stabilityai/sdxl", "sdxl", "made for sketch"),
        ({"family": "sd1"}, "sketch", "sdxl", "made for SD 1, and sketch is of SDXL"),
        ({"family": ""}, "sketch", "sdxl", ""),
        ({"problem": "it is damaged"}, "sketch", "sdxl", "it is damaged"),
    ],
)
def test_what_does_not_fit_says_why(adapter: dict, base: str, family: str, why: str) -> None:
    one = AdapterFile("one", Path("one.safetensors"), 0, 0.0, **adapter)
    assert misfit(one, base=base, family=family).startswith(why)
    assert bool(misfit(one, base=base, family=family)) == bool(why)


def test_every_method_that_takes_the_adapters(space: Workspace) -> None:
    found = every_method(MIXED, lambda settings: shot_of(space, settings))
    assert [one.method for one in found] == ["cmlora", "composite", "klora", "merge", "switch"]
    assert [dict(one.options) for one in found if one.method == "switch"] == [MIXED.options]

    def no_klora(settings: Settings) -> None:
        if settings.method == "klora":
            raise BadInput("no")

    assert "klora" not in [one.method for one in every_method(MIXED, no_klora)]
    with pytest.raises(BadInput, match="second adapter"):
        every_method(replace(MIXED, picked=MIXED.picked[:1]), no_klora)


@pytest.mark.parametrize(
    ("columns", "rows", "across", "down"),
    [
        (("steps", "4, 8"), ("guidance", "1,3,5"), ("steps 4", "steps 8"),
         ("guidance 1.0", "guidance 3.0", "guidance 5.0")),
        (("strength 2", "0, 1"), ("seed", "1, 2"), ("wash 0.0", "wash 1.0"), ("seed 1", "seed 2")),
        (("method", "merge, klora"), ("strength 1", "0.1, 2"), ("merge", "klora"),
         ("bolt 0.1", "bolt 2.0")),
        (("option interval", "1, 3"), ("scheduler", "ddim, euler"),
         ("switch interval 1", "switch interval 3"), ("scheduler ddim", "scheduler euler")),
        (("prompt words", "bolt, wash"), ("nothing", ""), ("a bolt thing", "a wash thing"), ("",)),
    ],
)  # fmt: skip
def test_a_grid_is_labelled_by_where_its_shots_differ(
    space: Workspace,
    columns: tuple[str, str],
    rows: tuple[str, str],
    across: tuple[str, ...],
    down: tuple[str, ...],
) -> None:
    cells = grid(MIXED, columns, rows)
    job = queue_pictures(space, [shot_of(space, one) for one in cells])
    labels = table(job.arguments["shots"])  # type: ignore[arg-type]
    assert (labels.columns, labels.rows) == (across, down)
    assert len(cells) == len(across) * len(down)


def test_methods_beside_each_other_are_called_by_their_names(space: Workspace) -> None:
    shots = [shot_of(space, one) for one in every_method(MIXED, lambda one: shot_of(space, one))]
    job = queue_pictures(space, shots)
    labels = table(job.arguments["shots"])  # type: ignore[arg-type]
    assert labels.columns == ("cmlora", "composite", "klora", "merge", "switch")


@pytest.mark.parametrize(
    ("columns", "rows", "why"),
    [
        (("nothing", ""), ("nothing", ""), "varies something"),
        (("steps", "1"), ("steps", "2"), "the same thing"),
        (("steps", ""), ("nothing", ""), "give its values"),
        (("steps", "many"), ("nothing", ""), "not a whole number"),
        (("method", "blend"), ("nothing", ""), "no method 'blend'"),
        (("strength 5", "1"), ("nothing", ""), "no such adapter"),
        (("prompt words", "cat, dog"), ("nothing", ""), "does not say it"),
        (("seed", ",".join(map(str, range(9)))), ("steps", "1,2,3,4,5,6,7,8"), "72 pictures"),
    ],
)
def test_a_grid_that_cannot_be_says_why(
    columns: tuple[str, str], rows: tuple[str, str], why: str
) -> None:
    with pytest.raises(BadInput, match=why):
        grid(MIXED, columns, rows)


def test_what_a_grid_can_vary() -> None:
    names = [name for _, name in axes(MIXED)]
    assert {"strength 2", "option interval", "seed"} <= set(names) and "denoise" not in names
    assert "denoise" in [name for _, name in axes(replace(MIXED, start="x.png"))]


def test_a_roll_tells_how_much_of_a_block_is_whose(space: Workspace) -> None:
    shot = shot_of(space, replace(MIXED, method="switch", options={"interval": 3}))
    summary = summarize(schedule(shot))
    assert summary.blocks == ("down 1", "up 0") and summary.cost == 6
    worn = [bar.shares[0] for step in summary.steps for bar in step]
    assert worn == [(1.0, 0.0)] * 3 + [(0.0, 1.0)] * 3
    assert load_summary(space, shot) is None
    save_summary(space, shot, summary)
    assert load_summary(space, shot) == summary
    stronger = replace(shot, adapters=((shot.adapters[0][0], 0.9), shot.adapters[1]))
    assert load_summary(space, stronger) is None


@pytest.mark.parametrize("method", [Merge(), Composite(), KLoRA(), Switch(1)])
def test_the_drawing_of_a_roll_covers_what_is_changed(space: Workspace, method: object) -> None:
    shot = replace(shot_of(space, MIXED), method=method)
    summary = summarize(schedule(shot))
    drawn = score(summary)
    assert f"<b>{summary.cost:g}</b> evaluations" in drawn and "1 bolt" in drawn
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


A1111 = """a <lora:bolt:0.7>castle, (by night:1.2)
Negative prompt: blurry, grey
Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 12345, Size: 512x768, \
Model hash: abc, Model: dream, Lora hashes: "bolt: 00ff, x: 11", Version: v1.9"""


def test_parameters_of_a1111_are_read() -> None:
    recipe, amiss = recipe_from_text(A1111)
    assert recipe == {
        "prompt": "a castle, (by night:1.2)",
        "negative": "blurry, grey",
        "adapters": [{"name": "bolt", "strength": 0.7}],
        "steps": 20,
        "seed": 12345,
        "guidance": 7.5,
        "width": 512,
        "height": 768,
        "scheduler": "dpmpp_2m",
        "base": {"source": "dream", "name": "dream"},
    }
    assert amiss == []


@pytest.mark.parametrize(
    ("sampler", "ours"), [("Euler", "euler"), ("Euler a", None), ("UniPC", "unipc")]
)
def test_samplers_that_are_not_here_are_said(sampler: str, ours: str | None) -> None:
    recipe, amiss = recipe_from_text(f"a cat\nSteps: 9, Sampler: {sampler}, Seed: 1")
    assert recipe["scheduler"] == ours and bool(amiss) == (ours is None)


def test_a_picture_that_tells_nothing_says_so(tmp_path: Path) -> None:
    place, texts = tmp_path / "a.png", PngImagePlugin.PngInfo()
    Image.new("RGB", (8, 8)).save(place)
    with pytest.raises(BadInput, match="does not tell how it was made"):
        recipe_from_picture(place)
    texts.add_text("parameters", "just a cat")
    Image.new("RGB", (8, 8)).save(place, pnginfo=texts)
    assert recipe_from_picture(place)[0]["prompt"] == "just a cat"
    place.write_text("no picture")
    with pytest.raises(BadInput, match="can't be read"):
        recipe_from_picture(place)


def test_names_are_text_in_what_is_shown(space: Workspace) -> None:
    one = AdapterFile("a", Path("a"), 0, 0.0, triggers=("<img src=x onerror=alert(1)>",))
    assert "<img src=x" not in cards([(one, "")]) + cards([(one, "<b>why</b>")])
    assert "<b>why" not in cards([(one, "<b>why</b>")])
    assert "Every picture" in history(space, [], more=False)
