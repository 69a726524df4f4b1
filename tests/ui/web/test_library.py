"""The Library: what comes in is checked, and what goes out is the same adapter."""

import re
import time
from dataclasses import replace
from pathlib import Path

import torch
from playwright.sync_api import Page, expect

from studio.adapters.adapter import Adapter
from studio.adapters.delta import LowRank
from studio.adapters.formats.convert import to_kohya
from studio.adapters.load import load_adapter
from studio.adapters.tensor_file import write_tensors
from studio.workspace import AdapterFile, add_adapter, get_adapter, list_trash, open_workspace
from tests.ui.web.conftest import Server, fill, open_tab
from ui.web.library.cards import cards, details, matching
from ui.web.library.import_export import import_files

LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
WIDTH = 192  # of the layer in sketch


def an_adapter(*, triggers: tuple[str, ...] = ("sks lamp",), name: str = "") -> Adapter:
    generator = torch.Generator().manual_seed(1)
    down = torch.randn(2, WIDTH, generator=generator)
    delta = LowRank(down, torch.randn(WIDTH, 2, generator=generator), 2.0)
    return Adapter(
        deltas={LAYER: delta},
        kind="lora",
        family="sdxl",
        base="sketch",
        triggers=triggers,
        name=name,
    )


def kohya_file(folder: Path, name: str) -> Path:
    path = folder / f"{name}.safetensors"
    write_tensors(path, *to_kohya(an_adapter()))
    return path


def listed(name: str, *, kind: str = "lora", family: str = "sdxl", word: str = "") -> AdapterFile:
    path = Path(f"/library/{name}.safetensors")
    return AdapterFile(
        name, path, 26_600_000, time.time(), kind=kind, family=family, triggers=(word,)
    )


def find(page: Page, text: str) -> None:
    """Type into the filter, as a person does."""
    field = page.get_by_role("textbox", name="Find", exact=True)
    field.click()
    field.press("ControlOrMeta+a")
    field.press("Delete")
    field.press_sequentially(text)


def test_the_filter_finds_every_word_and_what_fits_a_family() -> None:
    robot = listed("Robot", word="sks robot")
    ink = listed("ink", kind="sara", word="ink style")
    old = listed("old", family="sd1", word="robot")
    anything = listed("anything", family="")
    all_of_them = [robot, ink, old, anything]
    assert matching(all_of_them, text="robot LORA") == [robot, old]
    assert matching(all_of_them, family="sdxl") == [robot, ink, anything]
    assert matching(all_of_them, text="robot", family="sd1") == [old]


def test_tags_and_notes_are_found_and_shown() -> None:
    robot = replace(listed("robot"), tags=("<toy>",), notes="for the fair", favourite=True)
    assert matching([robot, listed("ink")], text="toy fair") == [robot]
    shown = cards([robot, listed("ink")], chosen={"ink"})
    assert "<i>&lt;toy&gt;</i>" in shown and shown.count("★") == 1
    assert re.findall('data-name="(.*?)" aria-pressed="(.*?)"', shown) == [
        ("robot", "false"),
        ("ink", "true"),
    ]


def test_a_size_stays_in_one_line() -> None:
    assert "26.6\u00a0MB" in cards([listed("robot")])


def test_a_refusal_names_the_file_once(tmp_path: Path) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(kohya_file(tmp_path, "lamp").read_bytes()[:-100])
    imported, [refusal] = import_files(open_workspace(tmp_path / "space"), [torn])
    assert not imported
    assert re.fullmatch(r"torn\.safetensors is damaged \(.*\): download it again", refusal)


def test_what_a_file_says_is_text_in_the_page() -> None:
    hostile = listed('"><img src=x onerror=alert(1)>', word="<script>alert(1)</script>")
    broken = AdapterFile("b", Path("/b"), 1, 0.0, problem="<script>alert(1)</script>")
    told = {"recipe": {"<script>": "<script>"}, "fingerprint": "<script>"}
    told |= {"layers": {"<script>": 1}, "forms": {}, "ranks": {}, "tokens": {"<script>": 1}}
    written = [cards([hostile, broken]), details(hostile, told), details(broken, {})]
    for html in written:
        assert "<script" not in html and "onerror=alert(1)>" not in html


def test_files_come_in_checked_and_go_out_converted(shared_page: Page, tmp_path: Path) -> None:
    page = shared_page
    lamp = kohya_file(tmp_path, "lamp of kohya")
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(lamp.read_bytes()[:-100])
    pickle = tmp_path / "old.ckpt"
    pickle.write_bytes(b"\x80\x02" + bytes(100))
    open_tab(page, "Library")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Import").click()
    chooser.value.set_files([lamp, torn, pickle])
    expect(page.get_by_text("lamp of kohya is in the library")).to_be_visible()
    expect(page.get_by_text("torn.safetensors is damaged")).to_be_visible()
    expect(page.get_by_text("is a pickle, which can run any code")).to_be_visible()
    about = page.locator("#about")
    expect(about).to_contain_text("rank 2")
    original = load_adapter(lamp).deltas[LAYER].dense(torch.zeros(WIDTH, WIDTH))

    page.get_by_role("combobox", name="Export for").click()
    page.get_by_role("option", name="LyCORIS").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "lamp of kohya-lycoris.safetensors"
    download.value.save_as(tmp_path / "back.safetensors")
    back = load_adapter(tmp_path / "back.safetensors").deltas[LAYER]
    assert torch.equal(back.dense(torch.zeros(WIDTH, WIDTH)), original)


def test_an_adapter_is_found_renamed_deleted_and_brought_back(
    shared_page: Page, server: Server, tmp_path: Path
) -> None:
    page = shared_page
    add_adapter(server.space, an_adapter().save(tmp_path / "vase.safetensors"), name="vase")
    other = an_adapter(triggers=("sks stool",)).save(tmp_path / "stool.safetensors")
    add_adapter(server.space, other, name="stool")  # a filter that nothing fits hides something
    open_tab(page, "Library")
    find(page, "vase sks")
    listed = page.locator("#library .card")
    expect(listed).to_have_count(1)
    listed.click()
    name = page.get_by_role("textbox", name="Name", exact=True)
    expect(name).to_have_value("vase")
    fill(name, "../vase")
    page.get_by_role("button", name="Rename").click()
    expect(page.get_by_text("cannot be a name")).to_be_visible()
    expect(name).to_have_value("../vase")  # to be mended
    fill(name, "amphora")
    page.get_by_role("button", name="Rename").click()
    expect(page.get_by_text("vase is now amphora")).to_be_visible()
    find(page, "amphora")
    amphora = page.locator('#library [data-name="amphora"]')
    expect(listed).to_have_count(1)
    expect(amphora).to_be_visible()

    page.get_by_role("button", name="Notes, tags and cover").click()
    fill(page.get_by_role("textbox", name="Tags"), "clay, old")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(amphora).to_contain_text("clay")
    page.get_by_role("button", name="☆ Favourite").click()
    expect(amphora).to_contain_text("★ amphora")
    find(page, "")
    stool = page.locator('#library [data-name="stool"]')
    expect(stool).to_be_visible()
    page.get_by_label("Select several").check()
    for picked in (amphora, stool):
        picked.click()
        expect(picked).to_have_attribute("aria-pressed", "true")
    delete = page.get_by_role("button", name="Delete", exact=True)
    page.get_by_role("button", name="Delete 2").click()
    expect(stool).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(stool).to_be_visible()
    page.get_by_label("Select several").uncheck()
    find(page, "amphora")
    expect(listed).to_have_count(1)  # the list is written anew under a click that comes earlier
    amphora.click()

    delete.click()
    expect(page.get_by_text("No adapter fits this filter")).to_be_visible()
    assert [one.name for one in list_trash(server.space)] == ["amphora.safetensors"]
    page.get_by_role("button", name="Undo").click()
    expect(amphora).to_be_visible()
    delete.click()
    expect(listed).to_have_count(0)
    page.get_by_role("button", name="Trash").click()
    page.get_by_role("button", name="Restore amphora").click()
    expect(amphora).to_be_visible()
    assert get_adapter(server.space, "amphora").triggers == ("sks lamp",)

    page.get_by_role("button", name="Mix with it").click()
    expect(page.get_by_role("tab", name="Mix", selected=True)).to_be_visible()
    expect(page.locator(".mix-picked:visible").last).to_contain_text("amphora")


def test_bases_are_added_and_forgotten(shared_page: Page, tmp_path: Path) -> None:
    page = shared_page
    open_tab(page, "Library")
    page.get_by_role("button", name="Bases").click()
    bases = page.locator("#bases")
    expect(bases).to_contain_text("sketch-sd1")
    source = page.get_by_role("textbox", name="Another base")
    fill(source, str(tmp_path / "nothing"))
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_text("There is no base")).to_be_visible()
    fill(source, "somebody/some-base")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(bases).to_contain_text("somebody/some-base")
    page.get_by_role("button", name="Forget somebody/some-base").click()
    expect(bases).not_to_contain_text("somebody/some-base")
