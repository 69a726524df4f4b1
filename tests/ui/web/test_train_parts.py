"""What the tab Train shows, without a browser."""

import json
import math
import random
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

import trainers
from studio.bases.info import read_base_info
from studio.dataset.buckets import crop_to_bucket
from studio.dataset.folders import Folder
from studio.dataset.pictures import read_pictures
from studio.errors import BadInput
from studio.picture import load_picture
from studio.queue.client import add_job, get_job, list_jobs, stop_job
from studio.queue.job import Job
from studio.queue.worker import claim_job, finish_job, report_job
from studio.requests.training import TrainingRequest
from studio.workspace import (
    Sample,
    Workspace,
    add_upload,
    create_set,
    delete_picture,
    get_set,
    list_sets,
    next_picture_path,
)
from tests.ui.web.conftest import in_a_loop
from ui.shared.queue_requests import drawing_of, queue_training
from ui.web.frontend import template
from ui.web.server.fields import read_numbers
from ui.web.train.checkpoints import columns, draw_grid, drawn, latest_grid
from ui.web.train.compare import ComparisonPanel, Shown
from ui.web.train.dataset.crops import crop_preview, crops_of
from ui.web.train.dataset.picture_sets import add_example, add_files
from ui.web.train.loss_plot import loss_plot, running_mean
from ui.web.train.options import GROUPS, MAIN, preset
from ui.web.train.prompts import prompts_file
from ui.web.train.request import TrainForm, find_problem, pictures_of, queue
from ui.web.train.reuse import settings_of
from ui.web.train.reward import ALIGN
from ui.web.train.run_html import run_header, sample_rows
from ui.web.train.tab import _lay_out_form


@pytest.fixture
def job(space: Workspace) -> Job:
    """A training that was begun."""
    folder = create_set(space, "robot").path
    queue_training(space, TrainingRequest("lora", "<b>robot</b>", (Folder(Path(folder)),)))
    claimed = claim_job(space, ("train",))
    assert claimed
    return claimed


# Its settings.


def a_form(space: Workspace) -> TrainForm:
    async def build() -> TrainForm:
        with gr.Blocks():
            return _lay_out_form(space, gr.Dropdown())

    return in_a_loop(build)


def test_settings_put_back_into_the_form_ask_for_the_same_training(space: Workspace) -> None:
    robot, things = create_set(space, "robot").path, create_set(space, "things").path
    asked = TrainingRequest(
        "diffusekrona",
        "sks robot",
        (Folder(robot),),
        name="tin",
        base="sketch-sd1",
        options={"a1": 2},
        loading={"dtype": "bf16", "quantize": "fp8"},
        prior_pictures=things,
        recipe={
            **{"steps": 7, "lr": 0.003, "schedule": "linear", "flip": True, "size": 64},
            **{"sample_every": 2, "save_every": 3, "sample_prompts": ["a", "b c"]},
            **{"prior_class": "a robot", "text_encoders": True},
        },
    )
    assert_same_again(space, asked)


def test_a_reward_put_back_into_the_form_is_asked_for_again(
    space: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\na dog")
    prompts = prompts_file(space, "a cat\na dog")
    recipe = {"steps": 7, "sample_every": 2, "save_every": 3, "sample_prompts": ["a fox"]}
    given: dict[str, Any] = {"prompts": prompts, "recipe": recipe}
    palette = {"colours": ["navy", "#ff8800"], "limit": 0.2, "rank": 4}
    assert_same_again(space, TrainingRequest("palette", options=palette, **given))
    clip = {"folder": str(tmp_path), "words": "a fox", "aesthetic": True, "last": 1}
    assert_same_again(space, TrainingRequest("clip", options=clip, **given))


def assert_same_again(space: Workspace, asked: TrainingRequest) -> None:
    job = queue_training(space, asked)
    form = a_form(space)
    update, missing = settings_of(space, form, job)
    assert not missing and update.keys() <= form.all()
    data = {one: getattr(one, "value", None) for one in form.all()}
    data |= {
        one: value["value"] if isinstance(value, dict) else value for one, value in update.items()
    }
    again = get_job(space, queue(space, form, data))
    assert again.arguments == job.arguments


def test_a_reward_that_cannot_be_is_said(space: Workspace) -> None:
    form = a_form(space)
    data = {one: getattr(one, "value", None) for one in form.all()}
    data |= {form.kind: ALIGN, form.reward.name: "palette"}
    assert find_problem(space, form, data) == ""
    data[form.more.of_kind["palette"]["colours"]] = "navy, nothing"
    assert "unknown color" in find_problem(space, form, data)
    data |= {form.reward.name: "brightness", form.more.of_kind["brightness"]["target"]: "nan"}
    assert "Target must be a number from 0 to 1" in find_problem(space, form, data)


def test_settings_say_what_is_no_longer_here(space: Workspace, tmp_path: Path) -> None:
    adapter = tmp_path / "gone.safetensors"
    request = TrainingRequest("lora", "sks", (Folder(tmp_path),), init=str(adapter))
    form = a_form(space)
    update, missing = settings_of(space, form, queue_training(space, request))
    assert [str(tmp_path) in missing[0], "gone" in missing[1]] == [True, True]
    assert (update[form.sets]["value"], update[form.trigger]) == ("", "sks")


def test_fp8_in_a_job_of_before_is_put_back_as_the_way_to_open_the_base(
    space: Workspace, tmp_path: Path
) -> None:
    job = queue_training(space, TrainingRequest("lora", "sks", (Folder(tmp_path),)))
    recipe = {"steps": 7, "fp8": True}
    form = a_form(space)
    update, _ = settings_of(
        space, form, replace(job, arguments={**job.arguments, "recipe": recipe})
    )
    assert update[form.more.loading["quantize"]] == "fp8"


# The plot.


def test_a_plot_stays_small_however_long_the_training() -> None:
    make = random.Random(0)
    points = [(step, math.exp(-step / 5000) + make.random()) for step in range(1, 50_001)]
    drawing = loss_plot(points, steps=50_000)
    assert len(drawing) < 20_000
    assert loss_plot(points[:1], steps=50_000) == ""


def test_a_plot_lies_within_its_frame_and_keeps_outliers_from_flattening_it() -> None:
    points = [(step, 0.2 + 0.1 * (step % 2)) for step in range(1, 201)]
    points[50] = (51, 40.0)
    drawing = loss_plot(points, steps=400, checkpoints=[100])
    line = re.search(r'polyline points="([^"]+)"', drawing)
    assert line
    placed = [tuple(map(float, pair.split(","))) for pair in line[1].split()]
    assert all(0 <= x <= 1000 and 0 <= y <= 300 for x, y in placed)
    assert placed[-1][0] == 500  # half of the way
    assert 'd="M250.0,0V300"' in drawing
    assert 'aria-label="Loss 0.25 at step 200 of 400"' in drawing


def test_the_course_is_the_mean_of_what_went_before() -> None:
    losses = np.random.default_rng(0).random(60)
    course = running_mean([(step, float(loss)) for step, loss in enumerate(losses)])
    for number, (step, mean) in enumerate(course):
        assert step == number
        assert mean == pytest.approx(losses[max(0, number - 9) : number + 1].mean())


def test_losses_that_are_all_the_same_can_be_drawn() -> None:
    assert loss_plot([(1, 0.0), (2, 0.0)], steps=2) and loss_plot([(1, 5.0), (2, 5.0)], steps=2)


# The crop preview.


@pytest.mark.parametrize("sides", [(300, 200), (100, 500), (64, 64), (40, 30), (130, 128)])
def test_what_is_shown_as_kept_is_what_the_trainer_keeps(
    space: Workspace, tmp_path: Path, sides: tuple[int, int]
) -> None:
    width, height = sides
    across = np.tile(np.linspace(0, 255, width), (height, 1))
    down = np.tile(np.linspace(0, 255, height)[:, None], (1, width))
    picture = np.stack([across, down, np.zeros_like(down)], axis=-1).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "ramp.png")
    name = create_set(space, "ramps").name
    add_upload(space, name, tmp_path / "ramp.png")

    (crop,) = crops_of(get_set(space, name), size=64, step=16)
    (example,) = read_pictures(get_set(space, name).path, trigger="a", size=64, step=16).examples
    values, _ = crop_to_bucket(load_picture(example.path), example.bucket)
    seen = (values + 1) / 2
    assert crop.bucket == example.bucket
    left, top, wide, high = crop.left, crop.top, crop.width, crop.height
    near = 2.5 / min(*sides, 64)
    assert float(seen[0].min()) == pytest.approx(left, abs=near)
    assert float(seen[0].max()) == pytest.approx(left + wide, abs=near)
    assert float(seen[1].min()) == pytest.approx(top, abs=near)
    assert float(seen[1].max()) == pytest.approx(top + high, abs=near)


def test_crops_come_by_bucket_without_strips(space: Workspace, tmp_path: Path) -> None:
    name = create_set(space, "mixed").name
    for number, sides in enumerate([(64, 64), (30, 30), (200, 100), (2, 65)]):
        Image.new("RGB", sides).save(tmp_path / f"{number}.png")
        add_upload(space, name, tmp_path / f"{number}.png")
    found = crops_of(get_set(space, name), size=64, step=16)
    shown = crop_preview(found, {one.name: Path(f"/space/{one.name}") for one in found})
    assert re.findall(r"<h4[^>]*>([^<]*)", shown) == [
        "64 x 64 · 2 pictures, 1 enlarged",
        "80 x 48 · 1 picture",
    ]


# Pictures.


def test_files_become_a_set_and_each_that_does_not_is_named(
    space: Workspace, tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a grey thing")
    (tmp_path / "b.txt").write_text("nothing")
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    files = [tmp_path / name for name in ("a.txt", "a.png", "b.txt", "c.jpg")]
    name, left_out = add_files(space, "", files, new_name="../thing")
    assert [one.caption for one in get_set(space, name).pictures] == ["a grey thing"]
    assert [said.split()[0] for said in left_out] == ["c.jpg", "b.txt"]
    shown = template("train/left_out.html").render(reasons=left_out)
    assert len(re.findall(r"\w\.</li>", shown)) == 2  # whoever wrote them
    assert add_files(space, "", [tmp_path / "c.jpg"], new_name="x")[1]


def test_captions_come_with_pictures_as_they_do_in_a_folder(
    space: Workspace, tmp_path: Path
) -> None:
    for name in ("a.png", "b.png", "c.png", "d.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "a.TXT").write_text("a thing")
    (tmp_path / "b.png.txt").write_text("another thing")
    (tmp_path / "c.caption").write_bytes("Bär".encode("latin-1"))
    rows = "file_name,prompt\ntrain/a.png,unread\ntrain/d.png,a third\n"
    (tmp_path / "metadata.csv").write_text(rows)
    (tmp_path / "metadata.jsonl").write_text("{")
    files = sorted(path for path in tmp_path.iterdir() if path.is_file())
    name, left_out = add_files(space, "", files, new_name="things")
    captions = {one.name: one.caption for one in get_set(space, name).pictures}
    assert captions == {
        "a.png": "a thing",
        "b.png": "another thing",
        "c.png": "",
        "d.png": "a third",
    }
    assert len(left_out) == 2
    assert "metadata.jsonl, line 1, is not JSON" in left_out[0]
    assert "c.caption is not UTF-8 text" in left_out[1]


def test_what_is_dropped_is_left_out_for_the_reason_that_a_folder_has(
    space: Workspace, tmp_path: Path
) -> None:
    """What a system leaves in a folder is nobody's concern."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    (folder / "raw.CR2").write_bytes(b"II*\0" + bytes(60))
    (folder / "clip.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    for name in (".DS_Store", "._a.png", "Thumbs.db", "desktop.ini"):
        (folder / name).write_bytes(b"x")
    (folder / "metadata.csv").write_text("file_name,text\na.png,red\ngone.png,blue\n")
    name, left_out = add_files(space, "", sorted(folder.iterdir()), new_name="things")
    assert [(one.name, one.caption) for one in get_set(space, name).pictures] == [("a.png", "red")]
    assert left_out == [
        "clip.mp4 is not read: save frames of it as JPEG or PNG",
        "raw.CR2 is not read: develop it to JPEG or PNG",
        "gone.png is named in the metadata but is not there: add it too",
    ]


def test_what_a_training_leaves_out_of_a_set_is_read_anew_when_files_come(
    space: Workspace, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    name, _ = add_files(space, "", [tmp_path / "a.png"], new_name="things")
    assert pictures_of(space, name).remarks() == []
    (get_set(space, name).path / "b.cr2").write_bytes(b"x")
    (told,) = pictures_of(space, name).remarks()
    assert told.startswith("Left out 1 camera raw: b.cr2")
    assert len(pictures_of(space, name).examples) == 1


def test_examples_are_taken_once(space: Workspace) -> None:
    assert add_example(space, "robot") == add_example(space, "robot")
    (one,) = list_sets(space)
    assert len(one.pictures) == 5 and all(picture.caption for picture in one.pictures)


# Options.


def test_every_option_of_a_training_is_on_the_page_once() -> None:
    asked = [*MAIN, *(name for names in GROUPS.values() for name in names)]
    assert sorted(asked) == sorted(entry.name for entry in fields(trainers.Recipe))


@pytest.mark.parametrize("kind", trainers.kinds().values())
def test_a_preset_is_what_the_training_starts_from_with_samples_on_the_way(kind: type) -> None:
    base = read_base_info("sketch")
    assert base
    start = preset(kind(), base)
    plain = trainers.recipe_for(base, kind())
    assert start == replace(plain, sample_every=start.sample_every, save_every=start.save_every)
    assert start.steps // start.sample_every == 8
    large = replace(base, size=1024)
    assert preset(kind(), large).lr == trainers.recipe_for(large, kind()).lr
    assert preset(kind(), large, 3).sample_every == 1


# A training.


def test_what_users_wrote_is_text(job: Job) -> None:
    failed = replace(job, state="failed", error="<i>no</i>", advice="<u>less</u>")
    sample = Sample(3, 0, Path("/runs/x y/step-000003-00.png"))
    shown = run_header(failed, ahead=0) + sample_rows([sample], job)
    assert not re.search(r"<(b|i|u)>", shown.replace("<i style", ""))
    assert "&lt;b&gt;robot" in shown and "&lt;i&gt;no" in shown and "&lt;u&gt;less" in shown
    assert "gradio_api/file=/runs/x%20y/step-000003-00.png" in shown


def test_what_a_stopped_training_goes_on_from_is_said(job: Job) -> None:
    stopped = replace(job, state="stopped", step=4, error="")
    killed = replace(stopped, error="its worker was ended")
    assert "Stopped at step 4. Resume goes on from there." in run_header(stopped, ahead=0)
    for one in (killed, replace(killed, state="failed")):
        assert "Resume goes on from its last checkpoint" in run_header(one, ahead=0)


def test_of_many_samples_the_first_the_last_and_some_between_are_shown(job: Job) -> None:
    found = [Sample(step, 0, Path(f"/{step}.png")) for step in range(1, 101)]
    steps = [int(n) for n in re.findall(r"<small>step (\d+)</small>", sample_rows(found, job))]
    assert len(steps) == 10 and steps[0] == 1 and steps[-1] == 100


# The grid of checkpoints.


def make_checkpoints(space: Workspace, job: Job, *steps: int) -> None:
    for step in steps:
        folder = space.runs / job.run / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / "adapter.safetensors").touch()
    (space.runs / job.run / "adapter.safetensors").touch()


def test_a_grid_is_found_again_and_knows_its_cells(space: Workspace, job: Job) -> None:
    make_checkpoints(space, job, 4, 8)
    report_job(space, job.id, step=10, total=10)
    finish_job(space, job.id, "done")
    (done,) = list_jobs(space, kinds=("train",))
    assert latest_grid(space, done) is None
    draw_grid(space, done, steps=[10, 4], strengths=[0.5, 1.0], prompt="a robot", seed=7)
    grid = latest_grid(space, done)
    assert grid
    assert columns(grid) == 2 and len(drawing_of(grid).shots) == 4
    other = queue_training(space, TrainingRequest("lora", "other", (Folder(space.uploads),)))
    assert latest_grid(space, other) is None

    ids = []
    for _ in range(4):
        place = next_picture_path(space, "a robot")
        Image.new("RGB", (8, 8)).save(place)
        ids.append(f"{place.parent.name}/{place.name}")
    report_job(space, grid.id, results=ids)
    delete_picture(space, ids[1])
    grid = latest_grid(space, done)
    assert grid
    cells = [(one.step, one.strength) for one in drawn(space, grid)]
    assert cells == [(4, 0.5), (0, 0.5), (0, 1.0)]


def test_a_grid_that_was_removed_is_looked_for_anew(space: Workspace, job: Job) -> None:
    make_checkpoints(space, job, 4)

    async def build() -> ComparisonPanel:
        with gr.Blocks():
            return ComparisonPanel(space)

    shown = in_a_loop(build)._look(job.id, [], Shown(job.id, (4,), grid=999, drawn=0))
    assert shown[-1].grid is None


def test_what_cannot_be_a_grid_is_refused(space: Workspace, job: Job) -> None:
    make_checkpoints(space, job, *range(1, 20))
    given = {"prompt": "a", "seed": 0}
    with pytest.raises(BadInput, match="choose the checkpoints"):
        draw_grid(space, job, steps=[99], strengths=[1.0], **given)
    with pytest.raises(BadInput, match="64 are the most"):
        draw_grid(space, job, steps=range(1, 20), strengths=[0.1, 0.2, 0.3, 0.4], **given)
    with pytest.raises(BadInput, match="and give a strength"):
        draw_grid(space, job, steps=[1], strengths=[], **given)
    for text in ("a", "1, nan", "1; 2"):
        with pytest.raises(BadInput, match="is not numbers with commas"):
            read_numbers("strengths", text)
    assert read_numbers("strengths", " .5, 1,1") == [0.5, 1.0]
    assert not list_jobs(space, kinds=("batch",))


def test_the_same_training_is_queued_once(space: Workspace, tmp_path: Path) -> None:
    asked = TrainingRequest("lora", "sks robot", (Folder(tmp_path),), recipe={"steps": 9})
    first = queue_training(space, asked, once=True)
    assert queue_training(space, asked, once=True).id == first.id
    other = queue_training(space, replace(asked, recipe={"steps": 8}), once=True)
    assert other.id != first.id
    stop_job(space, first.id)
    assert queue_training(space, asked, once=True).id not in (first.id, other.id)


def test_a_log_is_read_on_and_a_resumed_one_afresh(
    space: Workspace, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ui.web.train.runs import Seen, updates

    monkeypatch.setattr("ui.web.train.runs.RESEND", math.inf)
    folder = space.runs / job.run
    folder.mkdir()
    lines = [json.dumps({"step": n, "loss": 1 / n, "lr": 0.1, "seconds": 0.1}) for n in (1, 2, 3)]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n")
    seen = updates(space, None, Seen())[-1]
    assert [step for step, _ in seen.points] == [1, 2, 3]
    unchanged = updates(space, job.id, seen)
    assert all("__type__" in part and part["__type__"] == "update" for part in unchanged[:-1])
    monkeypatch.setattr("ui.web.train.runs.RESEND", 0.0)  # an answer may have been lost
    assert updates(space, job.id, seen)[1:4] == list(seen.html)
    (folder / "new").write_text(lines[0] + "\n")
    (folder / "new").replace(folder / "log.jsonl")
    assert [step for step, _ in updates(space, job.id, seen)[-1].points] == [1]


def test_damaged_lines_of_a_log_are_told_below_the_plot(space: Workspace, job: Job) -> None:
    from ui.web.train.runs import Seen, updates

    folder = space.runs / job.run
    folder.mkdir()
    line = json.dumps({"step": 1, "loss": 0.5, "lr": 0.1, "seconds": 0.1})
    (folder / "log.jsonl").write_text(f"{line}\n{{}}\n\0\0\n{line}\n")
    for seen in (Seen(), updates(space, job.id, Seen())[-1]):
        seen = updates(space, job.id, seen)[-1]
        assert [step for step, _ in seen.points] == [1, 1]
        assert "Left out 2 lines of log.jsonl" in (seen.html[1] or "")


def test_a_late_look_at_a_training_does_not_choose_it_again(space: Workspace, job: Job) -> None:
    from ui.web.train.runs import Seen, select_run, updates

    def chosen(looked: list) -> object:
        return looked[0].constructor_args.get("value", "as it was")

    assert chosen(updates(space, job.id, Seen())) == "as it was"
    assert chosen(select_run(space, job.id)) == job.id
    assert chosen(updates(space, None, Seen())) == job.id


def test_of_trainings_that_wait_the_next_one_is_shown(space: Workspace) -> None:
    from ui.web.train.runs import _selected_job

    first, second = (add_job(space, "train", {}, title=title) for title in ("a", "b"))
    shown = _selected_job(space, None, [second.id, first.id])
    assert shown and shown.id == first.id
    shown = _selected_job(space, second.id, [second.id, first.id])
    assert shown and shown.id == second.id  # somebody chose it
