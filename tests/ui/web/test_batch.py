"""Batches: a grid says a manifest, a manifest is checked, pictures come, and go as a zip."""

import json
import re
import tomllib
from dataclasses import replace
from html import unescape
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

import compose
from studio.errors import BadInput
from studio.queue.client import get_job, list_jobs
from studio.queue.worker import claim_job, finish_job, report_job
from studio.requests.shot import Shot
from studio.workspace import (
    Workspace,
    add_adapter,
    keep_start_picture,
    next_picture_path,
    open_workspace,
    remember_base,
)
from tests.ui.web.conftest import Server, fill, open_tab
from tests.ui.web.test_library import an_adapter
from ui.shared.queue_requests import queue_pictures
from ui.web.batch import cost as _cost
from ui.web.batch.archive import zipped
from ui.web.batch.cost import evaluations, seconds_for
from ui.web.batch.grid import ALONE, NONE, TOGETHER, Grid, grid_of, manifest_of
from ui.web.batch.html import batch_rows, pictures, progress
from ui.web.batch.library_names import shots_of


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    space = open_workspace(tmp_path / "space")
    for name in ("robot", "ink"):
        add_adapter(space, an_adapter().save(tmp_path / "one.safetensors"), name=name)
    return space


def mixes(space: Workspace, grid: Grid) -> list[dict[str, float]]:
    shots = shots_of(space, manifest_of(grid))
    return [{Path(str(file)).stem: by for file, by in shot.adapters} for shot in shots]


def test_a_grid_says_every_combination(space: Workspace) -> None:
    grid = Grid(
        "a robot\n\n  a ship ",
        seeds="3, 7",
        adapters=["robot", "ink:0.8"],
        strengths="0.5 1",
        mixes=[TOGETHER, ALONE, NONE],
        methods=["merge", "switch"],
        steps=4,
    )
    shots = shots_of(space, manifest_of(grid))
    # None of them, robot twice, ink once, both twice; of several a mix by each method.
    assert len(shots) == 2 * 2 * (1 + 2 + 1 + 2 * 2)
    assert {(shot.prompt, shot.seed) for shot in shots} == {
        (prompt, seed) for prompt in ("a robot", "a ship") for seed in (3, 7)
    }
    assert {tuple(mix.items()) for mix in mixes(space, grid)} == {
        (),
        (("robot", 0.5),),
        (("robot", 1.0),),
        (("ink", 0.8),),
        (("robot", 0.5), ("ink", 0.8)),
        (("robot", 1.0), ("ink", 0.8)),
    }
    assert {shot.steps for shot in shots} == {4}


def test_larger_pictures_are_said_to_take_longer(space: Workspace) -> None:
    own = Shot("a robot", steps=10, base="sketch")
    assert seconds_for(space, [own]) is None
    job = queue_pictures(space, [own])
    claim_job(space, ("render",))
    report_job(space, job.id, seconds=10.0)
    finish_job(space, job.id, "done")
    large, second = replace(own, width=256, height=256), replace(own, second_pass=2.0)
    assert seconds_for(space, [own, own]) == pytest.approx(20)
    assert seconds_for(space, [large]) == pytest.approx(40)
    assert seconds_for(space, [second]) == pytest.approx(10 + 40 * 0.6)


def test_the_size_of_a_base_is_known_once_it_is_there(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    shot = Shot("a robot", width=256, height=256)
    job = queue_pictures(space, [replace(shot, width=None, height=None)])
    claim_job(space, ("render",))
    report_job(space, job.id, seconds=10.0)
    finish_job(space, job.id, "done")
    with monkeypatch.context() as before:
        before.setattr(_cost, "read_base_info", lambda _: None)
        assert seconds_for(space, [shot]) == pytest.approx(10)
    assert seconds_for(space, [shot]) == pytest.approx(40)


def test_a_base_in_the_list_may_lie_behind_a_link(
    space: Workspace, sd1_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "models").symlink_to(sd1_folder.parent)
    linked = str(tmp_path / "models" / sd1_folder.name)
    remember_base(space, linked, name="sd1", family="sd1")
    (shot,) = shots_of(space, f'prompt = "a robot"\nbase = "{linked}"')
    assert shot.base == linked


def test_a_shot_of_mix_is_a_grid_of_one(space: Workspace, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "start.png")
    start = str(keep_start_picture(space, tmp_path / "start.png"))
    mixed = Shot(
        'a "fine" {robot}',
        negative="fog",
        seed=2**40,
        steps=7,
        guidance=3.5,
        width=48,
        scheduler="ddim",
        spacing="trailing",
        second_pass=1.5,
        init_image=start,
        mask=start,
        adapters=(
            (str(space.adapters / "robot.safetensors"), 1.0),
            (str(space.adapters / "ink.safetensors"), 0.8),
        ),
        method=compose.KLoRA(alpha=1.2),
    )
    (shot,) = shots_of(space, manifest_of(grid_of(mixed)))
    assert (shot.prompt, shot.negative, shot.seed) == ('a "fine" {robot}', "fog", 2**40)
    assert (shot.steps, shot.guidance, shot.width, shot.scheduler) == (7, 3.5, 48, "ddim")
    assert (shot.spacing, shot.second_pass) == ("trailing", 1.5)
    assert (shot.init_image, shot.mask) == (start, start)
    assert [by for _, by in shot.adapters] == [1.0, 0.8]
    assert shot.method == mixed.method


def test_what_is_no_number_is_named() -> None:
    with pytest.raises(BadInput, match="seeds: 'many' is not"):
        manifest_of(Grid("a", seeds="many"))
    with pytest.raises(BadInput, match="strengths: '1, many' is not"):
        manifest_of(Grid("a", adapters=["robot"], strengths="1, many"))
    assert manifest_of(Grid(" \n ")) == ""


def test_every_digit_of_a_seed_is_kept(space: Workspace) -> None:
    seeds = (2**53 + 1, 2**63 - 1)
    shots = shots_of(space, manifest_of(Grid("a", seeds=f"{seeds[0]}, {seeds[1]}")))
    assert tuple(shot.seed for shot in shots) == seeds


def test_prompts_of_any_kind_are_written_as_toml() -> None:
    for prompt in ('say "hi"', "back\\slash", "naïve 'é' ☃", "tab\there"):
        assert tomllib.loads(manifest_of(Grid(prompt)))["prompts"] == [prompt]


def test_the_cost_is_that_of_the_schedules(space: Workspace) -> None:
    grid = Grid("a", adapters=["robot", "ink"], mixes=[TOGETHER, NONE], steps=10)
    plain, both = 10, {"merge": 10, "switch": 10, "composite": 20, "klora": 10}
    for method, cost in both.items():
        shots = shots_of(space, manifest_of(Grid(**{**vars(grid), "methods": [method]})))
        assert evaluations(shots) == plain + cost


def test_shots_that_could_not_be_drawn_are_told_of(space: Workspace) -> None:
    shots = [Shot("a robot", seed=seed) for seed in range(3)]
    job = queue_pictures(space, shots, kind="batch")
    claim_job(space, ("batch",))
    place = next_picture_path(space, "a robot")
    Image.new("RGB", (8, 8)).save(place)
    made = f"{place.parent.name}/{place.name}"
    report_job(space, job.id, results=[made, "", made], step=3, total=3)
    said = "1 of 3 pictures could not be drawn:\npicture 2 (a <robot>, seed 1): too large"
    finish_job(space, job.id, "failed", error=said)
    job = get_job(space, job.id)
    assert "failed, 2 of 3, 1 could not be drawn" in batch_rows([job], chosen=None)
    told = progress(job)
    assert told.count('class="problem"') == 2 and "(a &lt;robot&gt;, seed 1): too large" in told
    assert re.findall('alt=.([^"]*)', pictures(space, job)) == [
        "a robot, no adapter, seed 0",
        "a robot, no adapter, seed 2",
    ]
    with ZipFile(zipped(space, job)) as archive:
        lines = archive.read("results.jsonl").decode().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [0, 2]


def test_every_picture_says_what_it_was_mixed_of(space: Workspace) -> None:
    grid = Grid(
        "a <robot>\na ship", seeds="4", adapters=["robot:0.5", "ink"], methods=["switch", "merge"]
    )
    shots = shots_of(space, manifest_of(grid))
    job = queue_pictures(space, shots, kind="batch")
    claim_job(space, ("batch",))
    ids = []
    for _ in shots:
        place = next_picture_path(space, "a")
        Image.new("RGB", (8, 8)).save(place)
        ids.append(f"{place.parent.name}/{place.name}")
    report_job(space, job.id, step=4, total=4, results=ids)
    html = pictures(space, get_job(space, job.id))
    assert re.findall("<h4>(.*?)</h4>", html) == ["a &lt;robot&gt;", "a ship"]
    assert re.findall("<figcaption><b>(.*?)</b> (.*?)</figcaption>", html) == 2 * [
        ("robot 0.5 + ink 1, Switch", "seed 4"),
        ("robot 0.5 + ink 1, Merge", "seed 4"),
    ]
    assert re.findall('data-id="(.*?)"', html) == ids
    told = dict(json.loads(unescape(re.findall('data-facts="(.*?)"', html)[0])))
    assert told["Prompt"] == "a <robot>" and told["Strength 1"] == "0.5"
    assert (told["Method"], told["CFG scale"], told["Seed"]) == ("Switch", "5", "4")
    assert not {"Negative", "Clip skip", "Mask"} & told.keys()  # as nobody set them


def test_a_batch_is_checked_made_looked_at_and_taken_away(
    shared_page: Page, server: Server, tmp_path: Path
) -> None:
    page = shared_page
    add_adapter(server.space, an_adapter().save(tmp_path / "jug.safetensors"), name="jug")
    open_tab(page, "Batch")
    manifest = page.get_by_role("textbox", name="Manifest")
    fill(page.get_by_role("textbox", name="Prompts"), "a red star")
    verdict = page.locator("#verdict")
    expect(verdict).to_contain_text("2 pictures, 50 UNet passes")
    written = tmp_path / "faces.toml"
    written.write_text('prompt = "a red star"\nadapters = ["nobody"]\nstep = 3\n')
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Open a manifest").click()
    chooser.value.set_files(written)
    expect(verdict).to_contain_text("manifest.toml, line 3, step: there is no such field")
    expect(verdict).to_contain_text("line 2, adapters: there is no adapter 'nobody'")
    expect(page.get_by_role("button", name="Start")).to_be_disabled()

    fill(manifest, 'prompt = "a red star"\nadapters = ["jug:0.5"]\nseeds = "1..3"\nsteps = 3\n')
    manifest.press("Enter")
    page.get_by_role("button", name="Make 3 pictures").click()
    sheet = page.locator("#batch-pictures img")
    expect(page.locator("#batch")).to_contain_text("done, 3 of 3")
    expect(sheet).to_have_count(3)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as zip").click()
    download.value.save_as(tmp_path / "batch.zip")
    with ZipFile(tmp_path / "batch.zip") as archive:
        told = [json.loads(line) for line in archive.read("results.jsonl").splitlines()]
        assert {one["file"] for one in told} < set(archive.namelist())
        assert {"sheet.html", "sheet.png"} < set(archive.namelist())
    assert [one["seed"] for one in told] == [1, 2, 3]

    job = list_jobs(server.space, kinds=("batch",), limit=1)[0]
    page.reload()
    open_tab(page, "Batch")
    expect(sheet).to_have_count(3)
    row = page.locator(f'#batches [data-name="{job.id}"]')
    page.get_by_role("button", name="Remove", exact=True).click()
    expect(row).to_have_count(0)
    page.get_by_role("button", name="Undo remove").click()
    expect(row).to_be_visible()


def test_what_is_written_at_once_is_not_replaced_by_an_empty_grid(page: Page) -> None:
    page.route("**/queue/join*", lambda held: None)
    with page.expect_request("**/queue/join*"):
        open_tab(page, "Batch")
    manifest = page.get_by_role("textbox", name="Manifest")
    fill(manifest, 'prompt = "a blue star"\nseeds = "1..9"\n')
    page.unroute("**/queue/join*")  # which lets go of what was held
    expect(page.get_by_role("button", name="Make 9 pictures")).to_be_enabled()
    expect(manifest).to_have_value('prompt = "a blue star"\nseeds = "1..9"\n')


def test_every_widget_of_the_grid_writes_the_manifest(
    page: Page, server: Server, tmp_path: Path
) -> None:
    add_adapter(server.space, an_adapter().save(tmp_path / "cup.safetensors"), name="cup")
    open_tab(page, "Batch")
    manifest = page.get_by_role("textbox", name="Manifest")

    def put(name: str, value: str, said: str) -> None:
        fill(page.locator("[role=tabpanel]:visible").get_by_label(name).last, value)
        expect(manifest).to_have_value(re.compile(re.escape(said)))

    def choose(name: str, value: str, said: str) -> None:
        page.locator("[role=tabpanel]:visible").get_by_label(name).first.click()
        page.get_by_role("option", name=value, exact=True).click()
        expect(manifest).to_have_value(re.compile(re.escape(said)))

    put("Prompts", "a red star", 'prompts = ["a red star"]')
    put("Seeds", "7", "seeds = [7]")
    put("Steps", "3", "steps = 3")
    put("CFG scale", "2.5", "guidance = 2.5")
    choose("Adapters", "cup", 'mixes = [["cup:1"]]')
    put("Strengths", "0.5, 1", '[["cup:0.5"], ["cup:1"]]')
    page.get_by_label(NONE).check()
    expect(manifest).to_have_value(re.compile(r"mixes = \[\[\], "))
    page.get_by_label("Switch").check()
    expect(manifest).to_have_value(re.compile(r'methods = \["merge", "switch"\]'))
    choose("Base model", "sketch-sd1", 'base = "sketch-sd1"')


def test_a_batch_is_stopped_and_goes_on(shared_page: Page, server: Server) -> None:
    page = shared_page
    open_tab(page, "Batch")
    manifest = page.get_by_role("textbox", name="Manifest")
    fill(manifest, 'prompt = "a blue star"\nseeds = "1..99"\nsteps = 5\n')
    manifest.press("Enter")
    page.get_by_role("button", name="Make 99 pictures").click()
    batch = page.locator("#batch")

    def made_after(count: int) -> None:
        later = "|".join(map(str, range(count + 1, 99)))
        expect(batch).to_contain_text(re.compile(rf"a blue star.*\b({later}) of 99", re.S))

    def stop() -> int:
        page.get_by_role("button", name="Stop").click()
        expect(batch).to_contain_text("stopped")
        return len(list_jobs(server.space, kinds=("batch",), limit=1)[0].results)

    made_after(0)
    stopped = stop()
    assert 1 <= stopped < 99
    page.get_by_role("button", name="Resume").click()
    made_after(stopped)
    assert stopped < stop() < 99
