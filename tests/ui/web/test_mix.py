"""Mixing in the browser: adapters, the picture, comparisons, the history and a PNG dropped in."""

import json
import re
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin
from playwright.sync_api import Locator, Page, expect

from studio.adapters.adapter import Adapter
from studio.adapters.delta import LowRank
from studio.queue.client import list_jobs
from studio.queue.job import Job
from studio.requests.picture_file import read_recipe
from studio.workspace import get_picture, list_pictures
from tests.ui.web.conftest import PATIENCE, ROOT, Server, fill, open_tab

UNET = ROOT / "assets" / "sketch" / "unet" / "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", autouse=True)
def library(server: Server) -> None:
    """Two adapters that fit sketch and one that does not; nothing was trained for them."""
    for name, trigger, seed in (("mixbot", "mixbot", 1), ("mixink", "mixink style", 2)):
        _adapter(trigger, seed=seed).save(server.space.adapters / f"{name}.safetensors")
    other = replace(_adapter("sd thing", seed=3), family="sd1", base="")
    other.save(server.space.adapters / "mixother.safetensors")


def _adapter(trigger: str, *, seed: int) -> Adapter:
    with UNET.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    generator = torch.Generator().manual_seed(seed)
    deltas = {}
    for key, entry in header.items():
        if key.endswith("attn2.to_v.weight"):
            rows, columns = entry["shape"]
            up = 0.1 * torch.randn(rows, 2, generator=generator)
            down = 0.1 * torch.randn(2, columns, generator=generator)
            deltas[f"unet.{key.removesuffix('.weight')}"] = LowRank(down, up, alpha=2.0)
    return Adapter(deltas=deltas, kind="lora", family="sdxl", base="sketch", triggers=(trigger,))


@pytest.fixture
def mix(shared_page: Page, server: Server) -> Page:
    """The tab, with four steps a picture; the tests here share it, with what is in its fields."""
    page = shared_page
    fresh = page.evaluate("![window.drawnOnce, window.drawnOnce = true][0]")
    open_tab(page, "Mix")
    steps = page.get_by_label("number input for Steps")
    if fresh:  # it draws the settings of the last picture
        note = page.locator("#mix-note")
        expect(note).to_contain_text(re.compile(r"steps|pictures|Not drawn"))
        last = list_jobs(server.space, kinds=("render",), limit=1)[0]
        expect(steps).to_have_value(str(_shot(last)["steps"]))
    expect(page.locator("#mix-stop")).to_be_disabled()
    if steps.input_value() != "4":
        _made(page, server, lambda: _type(page, "number input for Steps", "4"))
    return page


def _type(page: Page, label: str, text: str) -> None:
    """Put a value into a field and leave it."""
    prompt = page.locator("#mix-prompt textarea")
    field = prompt if label == "Prompt" else page.get_by_label(label).first
    fill(field, text)
    field.blur()


def _made(page: Page, server: Server, act: Callable[[], object]) -> Job:
    """The job that an action leads to, once it has ended and the page shows what came of it."""
    before = list_jobs(server.space, limit=1)
    act()
    until = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < until:
        now = list_jobs(server.space, limit=1)
        fresh = now and [job.id for job in now] != [job.id for job in before]
        if fresh and now[0].state not in ("queued", "running"):
            for id in now[0].finished_results:
                expect(page.locator(f'#mix-history [data-name="{id}"]')).to_be_visible()
            return now[0]
        time.sleep(0.05)
    raise AssertionError("nothing was drawn")


def _in_library(page: Page, name: str) -> Locator:
    return page.locator(f'#mix-library [data-name="{name}"]')


def _draw(page: Page) -> None:
    """Press Draw, which hears no second press for a moment."""
    button = page.get_by_role("button", name="Draw", exact=True)
    expect(button).not_to_have_attribute("data-heard", "")
    button.click()


def _shot(job: Job) -> dict:
    shots = job.arguments["shots"]
    assert isinstance(shots, list) and isinstance(shots[0], dict)
    return shots[0]


def _choose(page: Page, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def _clear(page: Page, server: Server) -> None:
    """Take all adapters out."""
    while count := page.locator(".mix-picked:visible").count():
        page.get_by_role("button", name="Remove", exact=True).last.click()
        expect(page.locator(".mix-picked:visible")).to_have_count(count - 1)


def test_adapters_are_mixed_and_every_change_is_drawn(mix: Page, server: Server) -> None:
    _clear(mix, server)
    prompt = mix.locator("#mix-prompt textarea")
    _made(mix, server, lambda: _type(mix, "Prompt", "a blue boat at the beach"))
    _made(mix, server, _in_library(mix, "mixbot").click)
    expect(prompt).to_have_value("a blue boat at the beach, mixbot")
    job = _made(mix, server, _in_library(mix, "mixink").click)
    expect(prompt).to_have_value("a blue boat at the beach, mixbot, mixink style")
    shot = _shot(job)
    assert [one["name"] for one in shot["adapters"]] == ["mixbot", "mixink"]
    other = _in_library(mix, "mixother")
    expect(other).to_be_disabled()
    expect(other).to_contain_text("made for Stable Diffusion 1")

    # A slider by the keyboard; the seed stays.
    slider = mix.get_by_label("range slider for Strength of adapter 2")
    slider.focus()
    softer = _shot(_made(mix, server, lambda: slider.press("ArrowLeft")))
    assert softer["adapters"][1]["strength"] == pytest.approx(0.95)
    assert softer["seed"] == shot["seed"]

    _made(
        mix,
        server,
        lambda: _choose(mix, "Method", "Composite: each by itself at every step, then the mean"),
    )
    expect(mix.locator("#mix-schedule")).to_contain_text("8 UNet passes in 4 steps")
    expect(mix.locator("#mix-frame img")).to_be_visible()

    # Draw takes a new seed, unless it is kept: then the picture is there already.
    fresh = _shot(_made(mix, server, lambda: prompt.press("Control+Enter")))
    assert fresh["seed"] != shot["seed"] and fresh["method"]["name"] == "composite"
    mix.get_by_label("Lock seed").check()
    known = list_jobs(server.space, limit=1)[0].id
    _draw(mix)
    expect(mix.locator("#mix-note")).to_contain_text("drawn already")
    assert list_jobs(server.space, limit=1)[0].id == known
    mix.get_by_label("Lock seed").uncheck()

    # K-LoRA's choice is known with the picture.
    _made(
        mix, server, lambda: _choose(mix, "Method", "K-LoRA: a subject and a style, layer by layer")
    )
    expect(mix.locator("#mix-schedule svg")).to_be_visible()
    mix.get_by_role("button", name="Remove", exact=True).first.click()
    expect(prompt).to_have_value("a blue boat at the beach, mixink style")


def test_a_mix_is_sent_to_batch(mix: Page, server: Server) -> None:
    _clear(mix, server)
    _choose(mix, "Method", "Merge: all adapters at once")
    _in_library(mix, "mixbot").click()
    expect(mix.locator(".mix-picked:visible")).to_contain_text("mixbot")
    mix.get_by_role("button", name="Send to Batch").click()
    expect(mix.get_by_role("tab", name="Batch", selected=True)).to_be_visible()
    manifest = mix.get_by_label("Manifest")
    expect(manifest).to_have_value(re.compile('mixes = .*"mixbot'))
    expect(mix.get_by_role("button", name="Make 1 picture")).to_be_enabled()
    expect(mix.get_by_label("all together")).to_be_checked()


def test_a_picture_is_stopped_while_it_forms(mix: Page, server: Server) -> None:
    mix.get_by_label("Draw every change").uncheck()
    size = mix.get_by_text("Size and second pass", exact=True)
    size.click()
    slow = {"number input for Steps": "100", "Width": "256", "Height": "256"}
    for label, value in slow.items():  # nobody should have to hurry
        _type(mix, label, value)
    before = list_jobs(server.space, limit=1)[0].id
    _draw(mix)
    expect(mix.locator("#mix-frame .forming img")).to_be_visible()
    mix.locator("#mix-stop").click()
    expect(mix.locator("#mix-note")).to_contain_text("Stopped")
    expect(mix.locator("#mix-stop")).to_be_disabled()
    (job,) = (one for one in list_jobs(server.space, limit=3) if one.id > before)
    assert job.state == "stopped" and 0 < job.step < 100
    for label in ("Width", "Height"):
        _type(mix, label, "")
    size.click()
    mix.get_by_label("Draw every change").check()
    _made(mix, server, lambda: _type(mix, "number input for Steps", "4"))


def test_a_reload_shows_the_same(mix: Page, server: Server) -> None:
    _made(mix, server, lambda: _type(mix, "Prompt", "a green fish underwater"))
    mix.reload()
    open_tab(mix, "Mix")
    expect(mix.locator("#mix-prompt textarea")).to_have_value("a green fish underwater")
    expect(mix.locator("#mix-frame img")).to_be_visible()


def test_what_cannot_be_drawn_says_why_at_the_picture(mix: Page, server: Server) -> None:
    mix.get_by_text("Size and second pass", exact=True).click()
    _made(mix, server, lambda: _type(mix, "Width", "66"))
    expect(mix.locator("#mix-frame")).to_contain_text("66 is not a multiple of")
    _made(mix, server, lambda: _type(mix, "Width", ""))
    expect(mix.locator("#mix-frame img")).to_be_visible()


def test_a_grid_is_drawn_and_a_cell_opens_its_settings(mix: Page, server: Server) -> None:
    mix.get_by_text("Compare settings", exact=True).click()
    for which, what, values in ((0, "Steps", "2, 3"), (1, "CFG scale", "1, 6")):
        field = mix.get_by_label("Values").nth(which)
        before = field.input_value()
        _choose(mix, ("Columns", "Rows")[which], what)
        expect(field).not_to_have_value(before)  # values are suggested first
        fill(field, values)
    job = _made(mix, server, lambda: mix.get_by_role("button", name="Compare these values").click())
    assert len(job.results) == 4
    table = mix.locator("#mix-frame table")
    expect(table.locator("img")).to_have_count(4)
    expect(table).to_contain_text("Steps 2")
    expect(table).to_contain_text("CFG scale 6")
    table.locator("button").last.click()
    expect(mix.get_by_label("number input for CFG scale")).to_have_value("6")
    expect(mix.get_by_label("number input for Steps")).to_have_value("3")


def test_the_history_reopens_deletes_and_brings_back(mix: Page, server: Server) -> None:
    first = _made(mix, server, lambda: _type(mix, "Prompt", "a yellow duck in the desert"))
    _made(mix, server, lambda: _type(mix, "Prompt", "a pink owl in a forest"))
    mix.locator(f'#mix-history [data-name="{first.results[0]}"]').click()
    expect(mix.locator("#mix-prompt textarea")).to_have_value("a yellow duck in the desert")
    expect(mix.locator("#mix-note a")).to_have_text("Save picture")
    known = len(list_pictures(server.space, limit=500))
    mix.get_by_role("button", name="Delete picture").click()
    undo = mix.get_by_role("button", name="Undo delete")
    expect(undo).to_be_visible()
    assert len(list_pictures(server.space, limit=500)) == known - 1
    undo.click()
    expect(undo).to_be_hidden()
    expect(mix.locator("#mix-frame img")).to_be_visible()
    assert get_picture(server.space, first.results[0])


def test_a_png_brings_its_settings_and_says_what_is_not_here(
    mix: Page, server: Server, tmp_path: Path
) -> None:
    made = _made(mix, server, lambda: _type(mix, "Prompt", "a red crab at the beach"))
    picture = get_picture(server.space, made.results[0]).path
    recipe = read_recipe(picture) | {"prompt": "a teal snail", "seed": 99}
    recipe["adapters"] = [{"name": "lost", "path": "/x/lost.safetensors", "strength": 1.0}]
    texts = PngImagePlugin.PngInfo()
    texts.add_text("studio", json.dumps(recipe))
    changed = tmp_path / "changed.png"
    with Image.open(picture) as opened:
        opened.save(changed, pnginfo=texts)
    mix.locator("#mix-drop input[type=file]").set_input_files(changed)
    expect(mix.locator("#mix-prompt textarea")).to_have_value("a teal snail")
    expect(mix.get_by_label("Seed").first).to_have_value("99")
    expect(mix.locator("#mix-notice")).to_contain_text("adapter lost is not in the library")
    job = _made(
        mix, server, lambda: mix.locator("#mix-drop input[type=file]").set_input_files(picture)
    )
    assert _shot(job)["prompt"] == "a red crab at the beach"
