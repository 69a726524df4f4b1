"""Mix's handlers without a browser: each changes only what it is wired to change."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
import torch
from gradio.blocks import Block
from PIL import Image, PngImagePlugin

from studio.adapters.tensor_file import write_tensors
from studio.errors import BadInput
from studio.queue.client import list_jobs, remove_job
from studio.queue.worker import claim_job, finish_job, report_job
from studio.requests.shot import Shot
from studio.workspace import (
    Workspace,
    delete_adapter,
    delete_picture,
    next_picture_path,
    open_workspace,
)
from tests.compose.conftest import small
from tests.ui.web.conftest import in_a_loop
from ui.shared.queue_requests import queue_pictures
from ui.web.mix import events
from ui.web.mix.block_strengths import factor_in, with_factor
from ui.web.mix.html import note
from ui.web.mix.tab import MixTab
from ui.web.server.page import Page

UP = "unet.up_blocks.0.attentions.0.to_q"
RECIPE = '{"version": 1, "prompt": "a teal snail", "seed": 5, "steps": 9, "guidance": 2.0}'


class Tab:
    """The tab as one visitor's page has it: what was put into its components."""

    parts: MixTab

    def __init__(self, space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wired: dict[str, tuple[Callable[..., Any], set, set]] = {}
        self.space = space

        def on(
            triggers: object, handler: Any, given: set, shown: set, mode: str = "", **_: str
        ) -> Any:
            name = getattr(handler, "__name__", "")
            if isinstance(handler, partial):  # the button of a row
                name = f"{handler.func.__name__} {handler.keywords['place'] + 1}"
            elif hasattr(handler, "__self__"):
                self.parts = handler.__self__.tab
            self.wired[name] = handler, given, shown
            return SimpleNamespace(then=lambda *_, **__: None)

        monkeypatch.setattr(events, "_on", on)
        with gr.Blocks(), gr.Tabs() as tabs, gr.Tab("Mix") as mix:
            states = gr.State([]), gr.State(None), gr.State(""), gr.HTML()
            self.page = Page(space, tabs, mix, *states)
            events.mix_tab(self.page)
        self.form = self.parts.form
        inputs = {one for _, given, _ in self.wired.values() for one in given}
        self.now = {one: one.value for one in inputs}

    def act(self, called: str, **event: object) -> dict:
        """Call a handler as the page does, and put its answer onto the page."""
        handler, given, shown = self.wired[called]
        arguments: list[Any] = [{one: self.now[one] for one in given}] if given else []
        if event:
            arguments.append(SimpleNamespace(**event))
        answer = handler(*arguments)
        if answer is None or answer == gr.skip():  # of a handler without outputs
            return {}
        assert answer.keys() <= shown, f"{called} changes what it is not wired to"
        for one, value in answer.items():
            if isinstance(value, dict) and value.get("__type__") == "update":
                value = value.get("value", self.now.get(one))
            elif isinstance(value, Block):
                value = self.now.get(one)
            self.now[one] = value
        return answer


@pytest.fixture
def tab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tab:
    space = open_workspace(tmp_path / "space")
    for at, name in enumerate(("bolt", "wash")):
        adapter = replace(small({UP: (4, 6)}, seed=at), triggers=(f"{name} thing",), base="")
        adapter.save(space.adapters / f"{name}.safetensors")

    async def build() -> Tab:
        return Tab(space, monkeypatch)

    made = in_a_loop(build)  # where no loop runs, gradio makes some and leaves them open
    made.act("load")
    return made


def _reload(tab: Tab) -> None:
    """Reload the page: the browser has what stood in the widgets, states are those of a new one."""
    tab.act("remember")
    kept = tab.parts.form_kept
    values = [tab.now.get(one) for one in kept._widgets]
    stored = json.dumps({"form": kept._words["form"], "values": values})
    tab.now = {one: getattr(one, "value", None) for one in tab.now}
    tab.now[kept.stored] = stored
    tab.act("load")


def _shots(tab: Tab) -> list[dict]:
    return list_jobs(tab.space)[0].arguments["shots"]  # type: ignore[return-value]


def _draw(tab: Tab) -> str:
    """Do what a worker does with the newest job, without drawing."""
    job = claim_job(tab.space, ("render",))
    assert job
    made = []
    for shot in job.arguments["shots"]:  # type: ignore[union-attr]
        path, texts = next_picture_path(tab.space, shot["prompt"]), PngImagePlugin.PngInfo()  # type: ignore[index]
        texts.add_text("studio", RECIPE)
        Image.new("RGB", (8, 8)).save(path, pnginfo=texts)
        made.append(f"{path.parent.name}/{path.name}")
    report_job(tab.space, job.id, results=made)
    finish_job(tab.space, job.id, "done")
    return made[-1]


def test_a_first_picture_and_every_change_but_the_same_twice(tab: Tab) -> None:
    tab.act("enter")
    assert len(list_jobs(tab.space)) == 1
    tab.act("change")
    assert len(list_jobs(tab.space)) == 1  # nothing changed
    tab.now[tab.form.steps] = 11
    tab.act("change")
    first, second = list_jobs(tab.space)[::-1]
    assert first.state == "stopped" and second.state == "queued"
    assert _shots(tab)[0]["steps"] == 11
    tab.act("stop")
    assert list_jobs(tab.space)[0].state == "stopped"


def test_draw_takes_a_new_seed_unless_it_is_kept(tab: Tab) -> None:
    tab.act("draw")
    seed = _shots(tab)[0]["seed"]
    assert str(seed) == tab.now[tab.form.seed] != "0"
    tab.now[tab.form.lock] = True
    tab.now[tab.form.steps] = 9
    tab.act("draw")
    assert _shots(tab)[0]["seed"] == seed and len(list_jobs(tab.space)) == 2


def test_the_same_picture_is_made_once(tab: Tab) -> None:
    tab.now[tab.form.lock] = True
    for _ in range(3):
        tab.act("draw")
    assert len(list_jobs(tab.space)) == 1
    id = _draw(tab)
    tab.act("poll"), tab.act("draw")
    assert len(list_jobs(tab.space)) == 1 and "drawn already" in tab.now[tab.parts.note]
    delete_picture(tab.space, id)
    tab.act("draw")
    assert len(list_jobs(tab.space)) == 2
    tab.act("stop"), tab.act("draw")
    assert len(list_jobs(tab.space)) == 3


def test_changes_are_drawn_though_the_job_shown_was_removed(tab: Tab) -> None:
    tab.act("draw"), _draw(tab)
    remove_job(tab.space, tab.now[tab.parts.job])
    tab.now[tab.form.steps] = 9
    tab.act("change")
    assert _shots(tab)[0]["steps"] == 9


def test_what_a_stopped_comparison_has_drawn_is_counted(tab: Tab) -> None:
    tab.act("add", name="bolt"), tab.act("add", name="wash"), tab.act("compare_methods")
    job = claim_job(tab.space, ("render",))
    assert job
    report_job(tab.space, job.id, results=["", "", "2026-01-01/a.png"], total=4)
    finish_job(tab.space, job.id, "stopped")
    tab.act("poll")
    assert "Stopped, 1 of 4 drawn" in tab.now[tab.parts.note]


@pytest.mark.parametrize("field", ["denoise", "guidance"])
def test_sliders_take_in_what_lies_beyond_them(tab: Tab, field: str) -> None:
    slider = getattr(tab.form, field)
    update = tab.form.update(Shot("a robot", steps=500, **{field: 0.01}))[slider]
    assert update["minimum"] == 0.01 and update["maximum"] == slider.maximum
    tab.now[slider] = 0.01
    kept = tab.parts.form_kept
    stored = {"form": kept._words["form"], "values": [tab.now.get(one) for one in kept._widgets]}
    tab.now[kept.stored] = json.dumps(stored)
    assert tab.act("load")[slider]["minimum"] == 0.01


def test_every_digit_of_a_seed_is_kept(tab: Tab, tmp_path: Path) -> None:
    largest = 2**63 - 1  # a browser's own numbers are exact up to 2^53
    sent = PngImagePlugin.PngInfo()
    sent.add_text("studio", RECIPE.replace("5", str(largest), 1))
    Image.new("RGB", (8, 8)).save(tmp_path / "sent.png", pnginfo=sent)
    tab.now[tab.parts.dropped] = str(tmp_path / "sent.png")
    tab.act("open_file")
    tab.now[tab.form.lock] = True
    tab.act("draw")
    assert _shots(tab)[0]["seed"] == largest
    assert tab.now[tab.form.seed] == str(largest)
    tab.now[tab.form.seed] = ""
    tab.act("change")
    assert _shots(tab)[0]["seed"] == 0
    for typed, said in (("two", "seed: 'two' is not a whole number"), ("-1", "from 0")):
        tab.now[tab.form.seed] = typed
        with pytest.raises(BadInput, match=said):
            tab.act("draw")


def test_a_picture_forms_is_opened_deleted_and_brought_back(tab: Tab) -> None:
    tab.act("draw")
    assert tab.act("poll") and not tab.act("poll")  # nothing new
    id = _draw(tab)
    tab.act("poll")
    assert tab.now[tab.parts.picture] == id and id in tab.now[tab.parts.history]
    tab.act("delete")
    assert tab.now[tab.parts.picture] is None and id not in tab.now[tab.parts.history]
    tab.act("undo")
    assert tab.now[tab.parts.picture] == id
    tab.act("reopen", name=id)
    assert tab.now[tab.form.prompt] == "a teal snail" and tab.now[tab.form.guidance] == 2
    assert tab.now[tab.form.lock] is True
    tab.act("click_history", name="more")


def test_pictures_are_searched_for_marked_and_deleted_together(tab: Tab) -> None:
    parts, ids = tab.parts, []
    for _ in range(3):
        tab.act("draw")
        ids.append(_draw(tab))
        tab.act("poll")
    tab.act("mark")
    tab.now[parts.favourites] = True
    tab.act("list_history")
    assert [id in tab.now[parts.history] for id in ids] == [False, False, True]
    tab.now[parts.favourites], tab.now[parts.search] = False, "TEAL 5"  # of the recipe
    tab.act("list_history")
    assert all(id in tab.now[parts.history] for id in ids)
    tab.now[parts.search] = "octopus"
    tab.act("list_history")
    assert "No picture fits" in tab.now[parts.history]

    tab.now[parts.search], tab.now[parts.several] = "", True
    tab.act("list_history")
    for id in (ids[0], ids[1], ids[2], ids[1]):  # the second is picked and let go
        tab.act("click_history", name=id)
    assert tab.now[parts.history].count('aria-pressed="true"') == 2
    tab.act("delete_picked")
    assert [id in tab.now[parts.history] for id in ids] == [False, True, False]
    assert tab.now[parts.picture] is None  # it was the third
    tab.act("undo")
    assert all(id in tab.now[parts.history] for id in ids)
    assert "★" in tab.now[parts.history]


def test_an_adapter_is_switched_off_and_locked(tab: Tab) -> None:
    form = tab.form
    slots = form.adapters.slots
    tab.act("add", name="bolt")
    tab.act("add", name="wash")
    tab.now[slots[0].used] = False
    tab.act("change")
    assert [one["name"] for one in _shots(tab)[0]["adapters"]] == ["wash"]
    tab.now[slots[0].used], tab.now[slots[1].lock] = True, True
    tab.act("change")
    assert [one["name"] for one in _shots(tab)[0]["adapters"]] == ["bolt", "wash"]
    assert slots[1].locked(True)[slots[1].strength]["interactive"] is False
    tab.act("remove 1")
    assert tab.now[slots[0].lock] is True and len(tab.now[form.adapters.mix]) == 1


def test_block_sliders_write_the_option_that_they_show() -> None:
    text = with_factor("up_blocks.0", "1:up_blocks=0.3, x", "all", 0.5)
    assert text == "1:up_blocks=0.3, x, up_blocks.0=0.5"
    text = with_factor("up_blocks.0", text, "2", 1.2)
    assert factor_in("up_blocks.0", text, "2") == 1.2
    assert factor_in("up_blocks.0", text, "all") == 0.5
    assert factor_in("mid_block", text, "all") == 1
    assert factor_in("mid_block", "mid_block=a", "all") == 1
    text = with_factor("up_blocks.0", with_factor("up_blocks.0", text, "2", 1), "all", 0.7)
    assert text == "1:up_blocks=0.3, x, up_blocks.0=0.7"


def test_what_another_tab_sends_is_in_the_first_picture(tab: Tab) -> None:
    tab.now[tab.page.adapters] = ["bolt"]
    tab.act("enter")
    assert list_jobs(tab.space) == [] and not tab.now[tab.form.adapters.mix]
    tab.act("add_sent")
    entered = tab.act("enter")  # in whichever order the two come
    assert tab.form.adapters.mix not in entered
    (job,) = list_jobs(tab.space)
    assert [one["name"] for one in _shots(tab)[0]["adapters"]] == ["bolt"]
    assert job.state == "queued"


def test_the_picture_of_another_page_is_left_alone(tab: Tab) -> None:
    tab.act("draw")
    theirs = list_jobs(tab.space)[0].id
    tab.now[tab.parts.own_job] = None  # as after a load, which shows the latest of the workspace
    tab.now[tab.form.steps] = 3
    tab.act("change")
    assert [job.state for job in list_jobs(tab.space) if job.id == theirs] == ["queued"]


def test_only_the_picture_that_is_seen_is_deleted(tab: Tab) -> None:
    tab.act("draw")
    id = _draw(tab)
    tab.act("poll")
    assert tab.now[tab.parts.picture] == id
    tab.now[tab.parts.column], tab.now[tab.parts.columns] = "seed", "1, 2"
    tab.act("compare_grid")
    assert tab.now[tab.parts.picture] is None and not tab.act("delete")


def test_adapters_come_and_go_from_here_and_from_other_tabs(tab: Tab) -> None:
    parts, form = tab.parts, tab.form
    tab.act("add", name="bolt")
    tab.now[form.adapters.slots[0].strength] = 0.4
    tab.now[tab.page.adapters] = ["bolt", "wash"]
    tab.act("add_sent")
    assert [(one.name, one.strength) for one in tab.now[form.adapters.mix]] == [
        ("bolt", 0.4),
        ("wash", 1.0),
    ]
    assert tab.now[form.prompt] == "bolt thing, wash thing"
    assert [one["strength"] for one in _shots(tab)[0]["adapters"]] == [0.4, 1.0]
    tab.act("compare_methods")
    assert len(_shots(tab)) == 5
    tab.now[form.steps] = 3
    tab.act("change")
    assert len(_shots(tab)) == 5  # a comparison is not broken off
    _draw(tab)
    tab.act("poll")
    assert "Composite" in tab.now[parts.frame]
    tab.now[parts.column], tab.now[parts.row] = "strength 1", "seed"
    tab.act("suggest_columns"), tab.act("suggest_rows")
    tab.act("compare_grid")
    assert len(_shots(tab)) == 20
    tab.act("send_to_batch")
    assert Path(tab.now[tab.page.shot].adapters[0][0]).stem == "bolt"
    tab.act("remove 6")  # the last row's button: there is no such adapter


def test_settings_from_a_file(tab: Tab, tmp_path: Path) -> None:
    place, texts = tmp_path / "made.png", PngImagePlugin.PngInfo()
    texts.add_text("parameters", "a cat <lora:lost:1>\nSteps: 7, Sampler: DDIM, Seed: 3")
    Image.new("RGB", (8, 8)).save(place, pnginfo=texts)
    tab.now[tab.parts.dropped] = str(place)
    answer = tab.act("open_file")
    assert tab.now[tab.form.steps] == 7 and tab.now[tab.form.scheduler] == "ddim"
    assert "adapter lost is not in the library" in answer[tab.parts.notice].value
    assert list_jobs(tab.space) == []
    # Nothing is said of the picture that was shown before, nor can be done with it.
    assert answer[tab.parts.note] == note("") and answer[tab.parts.picture] is None
    assert not any(answer[one].interactive for one in (tab.parts.delete, tab.parts.star))


def test_what_no_picture_can_be_made_of_is_said_without_a_job(tab: Tab) -> None:
    for name in ("bolt", "wash", "bolt"):
        tab.act("add", name=name)
    jobs = len(list_jobs(tab.space))
    tab.now[tab.form.method] = "klora"
    tab.act("change")
    assert len(list_jobs(tab.space)) == jobs
    assert "which of the 3 adapters" in tab.now[tab.parts.frame]
    tab.now[tab.form.base] = "sketch-sd1"
    tab.act("change_base"), tab.act("use_example", name="a house")
    assert tab.now[tab.form.prompt] == "a house"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (lambda form: {form.seed: "abc"}, "Seed: &#39;abc&#39; is not a whole number."),
        (lambda form: {form.seed: "-5"}, "seed must be"),
        (lambda form: {form.steps: None}, "Steps: nothing is not a number."),
        (lambda form: {form.steps: 99999999999}, "steps must be"),
        (lambda form: {form.size["width"]: "12.5"}, "Width: &#39;12.5&#39; is not a whole number"),
    ],
)
def test_a_wrong_field_is_named_and_no_button_draws(
    tab: Tab, typed: Callable[[Any], dict], said: str
) -> None:
    tab.act("enter")
    right = dict(tab.now)
    tab.now |= typed(tab.form)
    answer = tab.act("change")
    assert said.lower() in answer[tab.parts.problem].value.lower()
    buttons = tab.parts.drawing_buttons()
    assert tab.parts.draw in buttons and not any(answer[one].interactive for one in buttons)
    assert tab.act("add", name="bolt")[tab.parts.problem].visible  # it is in the mix all the same
    assert [one.name for one in tab.now[tab.form.adapters.mix]] == ["bolt"]
    assert len(list_jobs(tab.space)) == 1
    tab.now |= {one: right[one] for one in typed(tab.form)}
    answer = tab.act("change")
    assert not answer[tab.parts.problem].visible and all(answer[one].interactive for one in buttons)
    assert len(list_jobs(tab.space)) == 2


def first_draw_of(tab: Tab) -> dict:
    """What follows the loading of a page that was opened with this tab."""
    handler, *_ = tab.wired["draw_first"]
    everything = {one: tab.now.get(one) for one in {*tab.now, tab.page.adapters}}
    return handler({**everything, tab.page.adapters: []})


def test_a_reload_keeps_the_mix_and_the_picture_of_this_page(tab: Tab) -> None:
    tab.act("add", name="bolt"), tab.act("add", name="wash")
    tab.now[tab.form.adapters.slots[1].strength] = 0.4
    tab.now |= {tab.form.method: "switch", tab.form.steps: 9, tab.form.negative: "fog"}
    tab.now |= {tab.form.lock: True, tab.parts.auto: False}
    tab.act("draw")
    shot, own = tab.form.read(tab.now), tab.now[tab.parts.own_job]
    other = queue_pictures(tab.space, [Shot("of a phone", base="sketch")])
    _reload(tab)
    assert tab.form.read(tab.now) == shot
    assert (tab.now[tab.form.lock], tab.now[tab.parts.auto]) == (True, False)
    assert tab.now[tab.parts.own_job] == tab.now[tab.parts.job] == own != other.id
    tab.act("enter")
    assert len(list_jobs(tab.space)) == 4  # what is drawn is not drawn again
    assert first_draw_of(tab) == gr.skip()
    delete_adapter(tab.space, "wash")
    tab.now[tab.form.seed] = "abc"
    _reload(tab)
    assert tab.now[tab.form.seed] == "abc" and tab.now[tab.form.negative] == "fog"
    assert [one.name for one in tab.now[tab.form.adapters.mix]] == ["bolt", "wash"]


def test_a_reload_keeps_a_picture_of_the_history(tab: Tab) -> None:
    tab.act("draw")
    id = _draw(tab)
    tab.act("reopen", name=id)
    _reload(tab)
    assert (tab.now[tab.parts.job], tab.now[tab.parts.picture]) == (None, id)
    delete_picture(tab.space, id)
    _reload(tab)
    assert tab.now[tab.parts.picture] is None


def test_steps_and_sampler_follow_the_base_until_they_are_chosen(tab: Tab) -> None:
    def sampling() -> list[object]:
        return [tab.now[one] for one in (tab.form.steps, tab.form.scheduler, tab.form.spacing)]

    assert sampling() == [8, "dpmpp_2m", "trailing"]
    for base, expected in (
        ("somebody/sdxl", [25, "", ""]),
        ("sketch-sd1", [8, "dpmpp_2m", "trailing"]),
    ):
        tab.now[tab.form.base] = base
        tab.act("change_base")
        assert sampling() == expected
    tab.now[tab.form.scheduler] = "unipc"
    tab.now[tab.form.base] = "somebody/sdxl"
    tab.act("change_base")
    assert sampling() == [8, "unipc", "trailing"]


def test_an_adapter_that_was_deleted_can_be_taken_out(tab: Tab) -> None:
    for name in ("bolt", "wash"):
        tab.act("add", name=name)
    delete_adapter(tab.space, "wash")
    assert "no adapter wash" in tab.act("change")[tab.parts.problem].value
    tab.act("remove 2")
    assert [Path(one["path"]).stem for one in _shots(tab)[0]["adapters"]] == ["bolt"]
    assert tab.now[tab.form.prompt] == "bolt thing"


def test_the_first_adapter_is_mixed_by_the_method_chosen_before(tab: Tab) -> None:
    tab.now[tab.form.method] = "composite"
    tab.act("add", name="bolt")
    assert _shots(tab)[0]["method"]["name"] == "composite"


def test_a_speed_adapter_sets_sampler_steps_and_guidance_until_that_is_undone(tab: Tab) -> None:
    form, one = tab.form, torch.ones(1, 1)
    factors = {f"{UP}.lora_{side}.weight": one for side in "AB"}
    write_tensors(tab.space.adapters / "lcm-lora.safetensors", factors, {})
    widgets = form.scheduler, form.spacing, form.steps, form.guidance
    before = [tab.now[widget] for widget in widgets]
    said = tab.act("add", name="lcm-lora")[form.sampling_note]
    assert "lcm-lora makes pictures fast (LCM-LoRA): sampler lcm, 4 steps, CFG scale 1" in said
    assert [tab.now[widget] for widget in widgets] == ["lcm", "", 4, 1.0]
    drawn = _shots(tab)[0]
    assert (drawn["scheduler"], drawn["steps"], drawn["guidance"]) == ("lcm", 4, 1.0)
    tab.act("undo_speed")
    assert [tab.now[widget] for widget in widgets] == before
    assert _shots(tab)[0]["steps"] == before[2] and len(_shots(tab)[0]["adapters"]) == 1
    assert not tab.act("undo_speed")  # pressed twice


def test_a_negative_prompt_that_does_nothing_is_named(tab: Tab) -> None:
    tab.now[tab.form.negative], tab.now[tab.form.guidance] = "fog", 1
    said = tab.act("change")[tab.form.sampling_note]
    assert "the negative prompt does nothing where the CFG scale is 1" in said


def test_a_tag_in_the_prompt_is_an_adapter_of_the_library(tab: Tab) -> None:
    tab.now |= {tab.form.prompt: "a cat <lora:bolt:0.5>", tab.form.reading["clip_skip"]: "2"}
    tab.act("draw")
    (shot,) = _shots(tab)
    assert (shot["prompt"], shot["syntax"], shot["clip_skip"]) == ("a cat", "a1111", 2)
    (adapter,) = shot["adapters"]
    assert (adapter["name"], adapter["strength"]) == ("bolt", 0.5)
    tab.now[tab.form.prompt] = "a cat <lora:nowhere:0.5>"
    with pytest.raises(BadInput, match="no adapter nowhere"):
        tab.act("draw")


def test_tags_become_adapters_of_the_mix_when_the_prompt_is_left(tab: Tab) -> None:
    form, one = tab.form, torch.ones(1, 1)
    tab.act("add", name="bolt")
    tab.now[form.prompt] = "a cat in fog <lora:bolt:0.5> <lora:wash:-0.3>"
    tab.act("take_tags")
    assert [(it.name, it.strength) for it in tab.now[form.adapters.mix]] == [
        ("bolt", 0.5),
        ("wash", -0.3),
    ]
    assert tab.now[form.prompt] == "a cat in fog"
    assert tab.now[form.adapters.slots[1].strength] == -0.3
    assert not tab.act("take_tags")  # there is none left
    factors = {f"{UP}.lora_{side}.weight": one for side in "AB"}
    write_tensors(tab.space.adapters / "lcm-lora.safetensors", factors, {})
    tab.now[form.prompt] = "a cat <lora:lcm-lora:1>"
    assert "lcm-lora makes pictures fast" in tab.act("take_tags")[form.sampling_note]
    assert (tab.now[form.scheduler], tab.now[form.steps]) == ("lcm", 4)


def test_the_clip_skip_of_an_adapter_is_named_and_set_with_one_click(tab: Tab) -> None:
    form, one = tab.form, torch.ones(1, 1)
    factors = {f"{UP}.lora_{side}.weight": one for side in "AB"}
    written = {"ss_clip_skip": "2", "ss_base_model_version": "sd_v1"}
    write_tensors(tab.space.adapters / "anime.safetensors", factors, written)
    tab.now[form.base] = "sketch-sd1"
    shown = tab.act("add", name="anime")
    assert "anime was trained with clip skip 2" in shown[form.clip_note]
    assert (
        shown[form.use_clip_skip].visible and shown[form.use_clip_skip].value == "Use clip skip 2"
    )
    shown = tab.act("use_clip_skip")
    assert tab.now[form.reading["clip_skip"]] == "2" and _shots(tab)[0]["clip_skip"] == 2
    assert not shown[form.use_clip_skip].visible
    assert not tab.act("use_clip_skip")  # pressed twice


def test_a_painted_mask_is_used(tab: Tab, tmp_path: Path) -> None:
    form = tab.form
    Image.new("RGB", (16, 16), "red").save(tmp_path / "start.png")
    tab.now[form.start] = str(tmp_path / "start.png")
    assert tab.act("show_in_editor")[form.paint]["background"] == str(tmp_path / "start.png")
    layer = Image.new("RGBA", (16, 16))
    tab.now[form.paint] = {"background": None, "layers": [layer], "composite": None}
    with pytest.raises(BadInput, match="nothing is painted"):
        tab.act("take_painted")
    layer.paste((255, 255, 255, 90), (2, 3, 6, 9))
    tab.act("take_painted")
    mask = Image.open(_shots(tab)[0]["mask"]["path"])
    assert (mask.getbbox(), mask.getextrema()) == ((2, 3, 6, 9), (0, 255))


def test_an_older_picture_is_opened_as_it_was_read(tab: Tab, tmp_path: Path) -> None:
    old = PngImagePlugin.PngInfo()
    old.add_text("studio", RECIPE.replace("a teal snail", "a (teal) snail"))
    Image.new("RGB", (8, 8)).save(tmp_path / "old.png", pnginfo=old)
    tab.now[tab.parts.dropped] = str(tmp_path / "old.png")
    tab.act("open_file")
    assert tab.now[tab.form.reading["syntax"]] == "cut"
    tab.act("draw")
    (shot,) = _shots(tab)
    assert (shot["prompt"], shot["syntax"]) == ("a (teal) snail", "cut")


def test_a_mix_that_becomes_one_of_regions_is_drawn_at_once(tab: Tab) -> None:
    form = tab.form
    for name in ("bolt", "wash"):
        tab.act("add", name=name)
    tab.now[form.method] = "regions"
    tab.act("change_regions")
    assert _shots(tab)[0]["regions"] == ["0,0,0.5,1", "0.5,0,1,1"]
    tab.act("remove 1")
    assert tab.now[form.regions.lines] == "0,0,0.5,1"


def test_regions_are_drawn_and_come_back(tab: Tab) -> None:
    form = tab.form
    tab.now |= {form.method: "regions", form.regions.lines: "0,0,0.5,1: a red cat"}
    answer = tab.wired["change"][0]({one: tab.now[one] for one in tab.wired["change"][1]})
    assert answer[form.regions.group].visible is True
    tab.act("draw")
    (shot,) = _shots(tab)
    assert shot["regions"] == ["0,0,0.5,1: a red cat"] and shot["method"]["name"] == "regions"
    tab.now[form.regions.lines] = ""
    tab.act("load")
    assert tab.now[form.method] == "regions"
    assert tab.now[form.regions.lines] == "0,0,0.5,1: a red cat"
    tab.now |= {form.regions.lines: "found a red cat@", form.regions.masks: "attention"}
    answer = tab.wired["change"][0]({one: tab.now[one] for one in tab.wired["change"][1]})
    assert answer[form.regions.painting].visible is False
    tab.act("draw")
    shot = _shots(tab)[0]
    assert shot["regions"] == ["found a red cat@"]
    assert shot["method"]["options"]["masks"] == "attention"
    tab.now[form.regions.masks] = "drawn"
    tab.act("load")
    assert tab.now[form.regions.masks] == "attention"
    tab.now[form.method] = "merge"  # its boxes stay in the form, not in the shot
    tab.act("draw")
    assert _shots(tab)[0]["regions"] == []
