"""Workers on a tiny random SDXL: jobs are done, stopped, killed, resumed, and fail alone."""

import importlib
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import compose
import trainers
from studio import Shot, load_base
from studio.bases.base import Base
from studio.dataset.folders import Folder
from studio.errors import BadInput
from studio.queue.client import (
    get_job,
    list_jobs,
    list_workers,
    live_preview,
    resume_job,
    stop_job,
)
from studio.queue.job import Job
from studio.queue.worker import Stop, claim_job, is_locked, queue_lock, report_job
from studio.requests.picture_file import read_recipe
from studio.requests.training import TrainingRequest
from studio.workspace import (
    Workspace,
    adapter_path,
    get_picture,
    list_adapters,
    list_checkpoints,
    list_pictures,
    list_samples,
    read_log,
)
from studio.workspace.database import DatabaseBusy
from trainers import LoRA
from ui.shared.queue_requests import queue_pictures, queue_training
from ui.shared.training_run import draw_with
from ui.worker import loop, processes, render_jobs, train_jobs
from ui.worker.device_lock import DeviceLock
from ui.worker.loop import work
from ui.worker.model_cache import ModelCache
from ui.worker.processes import workers

pytestmark = pytest.mark.process
STEPS = 12
RECIPE: dict[str, Any] = {"steps": STEPS, "batch": 1, "save_every": 2, "seed": 3}


def scrawl(prompt: str, seed: int) -> Image.Image:
    """A sample picture that costs no step of the base."""
    return Image.new("RGB", (8, 8), (len(prompt), seed, 0))


@pytest.fixture(autouse=True)
def quick_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_jobs, "draw_with", lambda base, fields, between: scrawl)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def base(sd1_folder: Path) -> Base:
    return load_base(sd1_folder, device="cpu")


@pytest.fixture(scope="module")
def undisturbed(photos: Path, base: Base, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The adapter of a training that no worker had to do with."""
    run = tmp_path_factory.mktemp("undisturbed")
    progress = trainers.train(
        LoRA(rank=2), base, photos, trigger="sks robot", run=run / "run", draw=scrawl, **RECIPE
    )
    *_, finished = progress
    assert isinstance(finished, trainers.Finished)
    return finished.path.read_bytes()


@pytest.fixture
def training(space: Workspace, photos: Path, sd1_folder: Path) -> Job:
    """The same training, queued."""
    return a_training(space, photos, sd1_folder)


def a_training(space: Workspace, photos: Path, base: Path, **recipe: object) -> Job:
    return queue_training(
        space,
        TrainingRequest(
            "lora",
            "sks robot",
            (Folder(photos),),
            base=str(base),
            options={"rank": 2},
            recipe=RECIPE | recipe,
        ),
    )


def work_off(space: Workspace, queue: str, *, until: Callable[[], bool] = lambda: False) -> None:
    """Be the queue's worker until nothing is queued, or until told to end."""
    with queue_lock(space, queue).acquire(timeout=0):
        work(space, queue, ending=until, leaving=lambda: True)


def stopped_when(
    asked: Callable[[object], bool], space: Workspace, job: Job, monkeypatch: pytest.MonkeyPatch
) -> Job:
    """The training after a worker did it until it was stopped.

    asked: whether to stop it; told the step that is reported.
    """

    def report(*given: object, **told: object) -> bool:
        if asked(told.get("step")):
            stop_job(space, job.id)
        return report_job(*given, **told)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as reporting:
        reporting.setattr("ui.worker.context.OFTEN", 0.0)
        reporting.setattr("ui.worker.context.report_job", report)
        work_off(space, "train")
    return get_job(space, job.id)


def idle_for(space: Workspace, looks: int) -> None:
    """Be a worker that has nothing to do, for so many looks at the queue."""
    left = iter(range(looks))
    with queue_lock(space, "train"):
        work(space, "train", ending=lambda: next(left, None) is None, leaving=lambda: False)


def test_an_idle_worker_seldom_asks_the_database(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(loop, "claim_job", lambda *given: asked.append(given))
    idle_for(space, 40)
    assert 0 < len(asked) <= 10


def test_an_idle_worker_lets_go_of_its_base(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[int] = []
    monkeypatch.setattr(ModelCache, "make_room", lambda _, large: freed.append(large))
    monkeypatch.setattr(loop, "BEAT", 0.0)
    idle_for(space, 3)
    assert not freed
    monkeypatch.setattr(loop, "RELEASE", 0.0)
    idle_for(space, 3)
    assert set(freed) == {0}


def killed_at_work(space: Workspace, queue: str, *, when: Callable[[], bool]) -> None:
    """A worker in another process, ended with SIGKILL as soon as `when` says so."""
    process = multiprocessing.get_context("fork").Process(
        target=work_off, args=(space, queue), daemon=True
    )
    process.start()
    assert process.pid
    while not when():
        assert process.is_alive(), "the worker ended before it could be killed"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def adapter_bytes(space: Workspace) -> bytes:
    (adapter,) = list_adapters(space)
    return adapter.path.read_bytes()


# Trainings.


def test_a_queued_training_gives_the_adapter_of_a_direct_one(
    space: Workspace, training: Job, undisturbed: bytes
) -> None:
    work_off(space, "train")
    done = get_job(space, training.id)
    assert (done.state, done.results, done.error) == ("done", ("sks robot",), "")
    assert (done.step, done.total) == (STEPS, STEPS) and done.seconds > 0
    assert adapter_bytes(space) == undisturbed
    assert [line["step"] for line in read_log(space, done.run).lines] == list(range(1, STEPS + 1))
    assert [one.step for one in list_checkpoints(space, done.run)] == list(range(2, STEPS, 2))


def test_a_worker_killed_at_random_steps_loses_nothing(
    space: Workspace, training: Job, undisturbed: bytes
) -> None:
    for kill_at in (3, 6, 9):
        killed_at_work(
            space,
            "train",
            when=lambda: get_job(space, training.id).step >= kill_at,  # noqa: B023
        )
        assert get_job(space, training.id).state == "running"
        assert list_adapters(space) == []
    work_off(space, "train")
    done = get_job(space, training.id)
    assert (done.state, done.results) == ("done", ("sks robot",))
    assert adapter_bytes(space) == undisturbed
    assert [line["step"] for line in read_log(space, done.run).lines] == list(range(1, STEPS + 1))


def test_a_worker_killed_before_the_adapter_was_put_away_leaves_it_to_the_next(
    space: Workspace, training: Job, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as late:
        late.setattr(train_jobs, "add_adapter", lambda *_, **__: time.sleep(60))
        finished = space.runs / training.run / "adapter.safetensors"
        killed_at_work(space, "train", when=finished.exists)
    assert list_adapters(space) == []
    with monkeypatch.context() as late:
        late.setattr(train_jobs, "report_job", lambda *_, **__: time.sleep(60))
        killed_at_work(space, "train", when=lambda: bool(list_adapters(space)))
    assert get_job(space, training.id).results == ()
    work_off(space, "train")
    assert get_job(space, training.id).results == ("sks robot",)
    assert adapter_bytes(space) == undisturbed  # once, not a second time beside the first


def test_a_stopped_training_keeps_its_checkpoint_and_goes_on(
    space: Workspace, training: Job, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = stopped_when(lambda step: step == 7, space, training, monkeypatch)
    assert (stopped.state, stopped.step, stopped.stopping) == ("stopped", 7, False)
    assert [one.step for one in list_checkpoints(space, stopped.run)] == [2, 4, 6, 7]
    resume_job(space, training.id)
    work_off(space, "train")
    assert adapter_bytes(space) == undisturbed


def test_a_worker_that_is_told_to_end_leaves_its_training_to_the_next(
    space: Workspace, training: Job, undisturbed: bytes
) -> None:
    work_off(space, "train", until=lambda: get_job(space, training.id).step >= 5)
    left = get_job(space, training.id)
    assert left.state == "queued" and left.step >= 5
    assert list_checkpoints(space, left.run)[-1].step >= left.step
    work_off(space, "train")
    assert adapter_bytes(space) == undisturbed


def test_samples_are_there_while_the_training_runs(
    space: Workspace, photos: Path, sd1_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_jobs, "draw_with", draw_with)  # the real one
    more = {"steps": 2, "sample_every": 1, "sample_prompts": ("a robot",)}
    job = a_training(space, photos, sd1_folder, **more)
    work_off(space, "train")
    samples = list_samples(space, job.run)
    assert [(one.step, one.number) for one in samples] == [(1, 0), (2, 0)]
    (adapter,) = list_adapters(space)
    assert adapter.preview


def test_a_training_is_stopped_while_a_sample_is_drawn(
    space: Workspace, photos: Path, sd1_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps that were made are in a checkpoint, from which it goes on."""
    monkeypatch.setattr(train_jobs, "draw_with", draw_with)  # the real one
    job = a_training(space, photos, sd1_folder, steps=4, save_every=0, sample_every=3)
    looks = []

    def in_a_sample(step: object) -> bool:
        looks.append(step)
        return looks.count(3) == 5  # of 25 steps of the sample

    stopped = stopped_when(in_a_sample, space, job, monkeypatch)
    assert (stopped.state, stopped.step) == ("stopped", 3) and looks.count(3) == 5
    assert [one.step for one in list_checkpoints(space, stopped.run)] == [3]
    assert list_samples(space, stopped.run) == []
    resume_job(space, job.id)
    work_off(space, "train")
    assert get_job(space, job.id).state == "done"


def test_trainings_that_cannot_be_made_fail_alone(
    space: Workspace, photos: Path, sd1_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "no pictures").mkdir()
    wrong = [
        a_training(space, tmp_path / "no pictures", sd1_folder),
        a_training(space, photos, tmp_path / "no base"),
        a_training(space, photos, sd1_folder, size=63),
        a_training(space, photos, sd1_folder, lr=1e30),
    ]
    right = a_training(space, photos, sd1_folder, steps=1)
    work_off(space, "train")
    failed = [get_job(space, job.id) for job in wrong]
    assert {job.state for job in failed} == {"failed"}
    assert [bool(job.error) for job in failed] == [True] * 4
    assert "NaN or Inf" in failed[3].error
    assert get_job(space, right.id).state == "done"


def test_what_is_wrong_with_a_training_by_itself_is_said_when_it_is_queued(
    space: Workspace, photos: Path
) -> None:
    request = TrainingRequest("lora", "a", (Folder(photos),))
    with pytest.raises(BadInput, match="no field 'step'; did you mean 'steps'"):
        queue_training(space, request.changed({"recipe": {"step": 3}}))
    with pytest.raises(BadInput, match="batch must be a whole number of at least 1"):
        queue_training(space, request.changed({"recipe": {"batch": 0}}))
    with pytest.raises(BadInput, match="trigger is empty"):
        queue_training(space, replace(request, trigger=" "))
    with pytest.raises(BadInput, match="There is no folder"):
        queue_training(space, replace(request, pictures=(Folder(photos / "nowhere"),)))
    with pytest.raises(BadInput, match="cannot be a name"):
        queue_training(space, replace(request, name="../a"))
    with pytest.raises(BadInput, match="steps"):
        queue_pictures(space, [Shot("a", steps=0)])
    assert list_jobs(space) == []


def test_an_error_that_should_not_be_fails_the_job_and_ends_the_worker(
    space: Workspace, photos: Path, sd1_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [a_training(space, photos, sd1_folder, steps=1) for _ in range(2)]
    with monkeypatch.context() as broken:
        broken.setattr(train_jobs, "_record", None)
        with pytest.raises(TypeError):
            work_off(space, "train")
    failed, waiting = (get_job(space, job.id) for job in jobs)
    assert failed.state == "failed" and failed.error.startswith("TypeError: ")
    assert "logs/train.log" in failed.advice
    assert waiting.state == "queued"
    work_off(space, "train")
    assert get_job(space, jobs[1].id).state == "done"


# Pictures.


def a_shot(sd1_folder: Path, **fields: object) -> Shot:
    shot = {"prompt": "a red robot", "base": str(sd1_folder), "steps": 3} | fields
    return Shot(**shot)  # pyright: ignore[reportArgumentType]


def test_a_queued_picture_is_the_one_that_render_makes(
    space: Workspace, training: Job, base: Base, sd1_folder: Path
) -> None:
    work_off(space, "train")
    start = space.uploads / "start.png"
    Image.linear_gradient("L").save(start)
    shot = a_shot(
        sd1_folder,
        adapters=((adapter_path(space, "sks robot"), 0.5),),
        method=compose.Switch(interval=2),
        init_image=start,
        seed=5,
        scheduler="ddim",
    )
    job = queue_pictures(space, [shot])
    work_off(space, "render")
    done = get_job(space, job.id)
    assert (done.state, done.phase, done.error) == ("done", "", "")
    (picture,) = list_pictures(space)
    assert done.results == (picture.id,)
    with Image.open(picture.path) as opened:
        assert opened.tobytes() == compose.render(base, shot).tobytes()
    assert read_recipe(picture.path)["seed"] == 5


def test_pictures_that_were_made_before_a_kill_are_not_made_again(
    space: Workspace, sd1_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render_jobs, "MOST_IN_GROUP", 1)
    job = queue_pictures(space, [a_shot(sd1_folder, seed=seed) for seed in range(4)], kind="batch")
    killed_at_work(space, "render", when=lambda: len(get_job(space, job.id).results) >= 2)
    assert get_job(space, job.id).state == "running"
    before = get_job(space, job.id).results
    work_off(space, "render")
    done = get_job(space, job.id)
    assert (done.state, done.step, done.total) == ("done", 4, 4)
    assert done.results[: len(before)] == before
    seeds = [read_recipe(get_picture(space, id).path)["seed"] for id in done.results]
    assert seeds == [0, 1, 2, 3]


def test_a_picture_can_be_watched_and_stopped(
    space: Workspace, sd1_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.worker.context.OFTEN", 0.0)
    monkeypatch.setattr(render_jobs, "PREVIEW_EVERY", 0.0)
    job = queue_pictures(space, [a_shot(sd1_folder, steps=50)])
    seen: list[tuple[int, bool]] = []

    def watch(*given: object, **told: object) -> bool:
        seen.append((get_job(space, job.id).step, live_preview(space, job.id) is not None))
        if told.get("step") == 6:
            stop_job(space, job.id)
        return report_job(*given, **told)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr("ui.worker.context.report_job", watch)
    work_off(space, "render")
    assert get_job(space, job.id).state == "stopped"
    assert max(step for step, _ in seen) < 8 and any(live for _, live in seen)
    assert live_preview(space, job.id) is None and list_pictures(space) == []


def test_a_batch_gives_way_to_a_picture_that_somebody_waits_for(
    space: Workspace, sd1_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render_jobs, "MOST_IN_GROUP", 2)
    batch = queue_pictures(space, [a_shot(sd1_folder, seed=n) for n in range(3)], kind="batch")
    asked: list[Job] = []

    def ask(*given: object, **told: object) -> bool:
        if told.get("results") and not asked:  # the first picture of the batch is there
            asked.append(queue_pictures(space, [a_shot(sd1_folder, seed=9)]))
        return report_job(*given, **told)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(render_jobs, "report_job", ask)
    work_off(space, "render")
    seeds = [read_recipe(one.path)["seed"] for one in reversed(list_pictures(space))]
    assert seeds == [0, 1, 9, 2]  # between the group of two and the one that is left
    assert {get_job(space, job.id).state for job in (batch, *asked)} == {"done"}


def test_a_mistake_of_ours_in_a_picture_leaves_the_batch_to_the_next_worker(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = queue_pictures(space, [Shot("a robot")], kind="batch")
    asked: list[Job] = []

    def render(*_: object, pause: Callable[[float], None] | None = None) -> None:
        if pause is None:
            raise TypeError("of the picture that somebody waits for")
        asked.append(queue_pictures(space, [Shot("a ship")]))
        pause(0.0)

    monkeypatch.setattr(loop, "render", render)
    with pytest.raises(TypeError):
        work_off(space, "render")
    assert get_job(space, asked[0].id).state == "failed"
    assert get_job(space, batch.id).state == "queued"


def test_what_a_batch_cannot_draw_is_named_and_the_others_are_drawn(
    space: Workspace, training: Job, sd1_folder: Path
) -> None:
    later = space.adapters / "later.safetensors"
    wrong = a_shot(sd1_folder, seed=1, adapters=((str(later), 1.0),))
    shots = [a_shot(sd1_folder), wrong, a_shot(sd1_folder, seed=2), a_shot(sd1_folder, width=63)]
    job = queue_pictures(space, shots, kind="batch")
    work_off(space, "render")
    failed = get_job(space, job.id)
    assert (failed.state, failed.step, failed.total) == ("failed", 4, 4)
    first, second, third = failed.error.splitlines()
    assert first == "2 of 4 pictures could not be drawn:"
    assert second.startswith("picture 2 (a red robot, seed 1): there is no adapter")
    assert third.startswith("picture 4 (a red robot, seed 0): width: 63")
    assert [bool(id) for id in failed.results] == [True, False, True, False]
    assert len(list_pictures(space)) == 2

    # It goes on with what is missing, once that can be drawn.
    work_off(space, "train")
    shutil.copy(adapter_path(space, "sks robot"), later)
    resume_job(space, job.id)
    work_off(space, "render")
    failed = get_job(space, job.id)
    assert failed.error.splitlines()[0] == "1 of 4 pictures could not be drawn:"
    seeds = [read_recipe(get_picture(space, id).path)["seed"] for id in failed.finished_results]
    assert seeds == [0, 1, 2] and len(list_pictures(space)) == 3


def test_a_base_that_is_not_there_fails_the_whole_batch(space: Workspace, tmp_path: Path) -> None:
    shots = [a_shot(tmp_path / "nothing", seed=seed) for seed in range(2)]
    job = queue_pictures(space, shots, kind="batch")
    work_off(space, "render")
    failed = get_job(space, job.id)
    assert (failed.state, failed.results) == ("failed", ()) and "nothing" in failed.error


def test_a_job_ends_as_it_would_though_the_database_was_busy(
    space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = queue_pictures(space, [Shot("a", base=str(tmp_path / "gone"))])
    monkeypatch.setattr("ui.worker.loop.BEAT", 0.0)
    for place in ("loop.claim_job", "loop.finish_job", "context.write_heartbeat"):
        monkeypatch.setattr(f"ui.worker.{place}", busy_once(place))
    work_off(space, "render", until=lambda: get_job(space, job.id).ended)
    done = get_job(space, job.id)
    assert done.state == "failed" and "gone" in done.error


def test_a_batch_goes_on_though_the_database_was_busy(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = queue_pictures(space, [Shot("a robot")], kind="batch")
    monkeypatch.setattr(loop, "render", lambda *_, pause: pause(0.0) or "done")
    monkeypatch.setattr(loop, "report_job", busy_once("loop.report_job"))
    work_off(space, "render")
    assert get_job(space, batch.id).state == "done"


def busy_once(place: str) -> Callable[..., Any]:
    """A function of the worker, which finds the database busy when it is called first."""
    module, _, name = f"ui.worker.{place}".rpartition(".")
    real, calls = getattr(importlib.import_module(module), name), []

    def call(*args: object, **given: object) -> object:
        calls.append(name)
        if len(calls) == 1:
            raise DatabaseBusy("the database is held by another process")
        return real(*args, **given)

    return call


def test_one_job_too_large_for_the_memory_fails_alone(space: Workspace, sd1_folder: Path) -> None:
    """In a process that is allowed little more memory than it has, so that the error is real."""
    large = queue_pictures(space, [a_shot(sd1_folder, width=1024, height=1024, steps=1)])
    small = queue_pictures(space, [a_shot(sd1_folder)])
    mixed = [a_shot(sd1_folder, width=1024, height=1024, steps=1), a_shot(sd1_folder, seed=1)]
    batch = queue_pictures(space, mixed, kind="batch")

    def poor() -> None:
        compose.render(load_base(sd1_folder, device="cpu"), a_shot(sd1_folder))  # threads begun
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        most = pages * resource.getpagesize() + 80 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        work_off(space, "render")

    process = multiprocessing.get_context("fork").Process(target=poor)
    process.start()
    process.join()
    assert process.exitcode == 0
    failed = get_job(space, large.id)
    assert failed.state == "failed" and failed.error.startswith("there was not enough memory")
    assert "smaller width and height" in failed.advice
    assert get_job(space, small.id).state == "done"
    of_two = get_job(space, batch.id)
    assert "picture 1 (a red robot, seed 0): there was not enough memory" in of_two.error
    assert "smaller width and height" in of_two.error and [*map(bool, of_two.results)] == [0, 1]


def test_the_model_cache_keeps_a_base_and_adapters(
    space: Workspace, training: Job, sd1_folder: Path
) -> None:
    work_off(space, "train")
    models = ModelCache(space)
    base = models.base(str(sd1_folder), {})
    assert models.base(str(sd1_folder), {}) is base
    file = adapter_path(space, "sks robot")
    shot = a_shot(sd1_folder, adapters=((file, 1.0),))
    first, again = (models.adapters([shot]).resolve(shot).adapters[0][0] for _ in range(2))
    assert first is again
    os.utime(file, (1, 1))
    assert models.adapters([shot]).resolve(shot).adapters[0][0] is not first
    assert models.base(str(sd1_folder), {"vae_tiling": True}) is not base


# Turns, and workers as processes.


def test_a_picture_goes_between_two_steps_of_a_training(space: Workspace) -> None:
    """The training makes no step while a picture is drawn, and goes on after each."""
    steps, pictures, over = [0], [], threading.Event()

    def train() -> None:
        device = DeviceLock(space)
        with device.for_training():
            while not over.is_set():
                time.sleep(0.002)
                steps[0] += 1
                device.give_way()

    trainer = threading.Thread(target=train)
    trainer.start()
    device = DeviceLock(space)
    done = 0
    for _ in range(5):
        wait_for(lambda done=done: steps[0] > done)
        with device.for_picture():
            before = steps[0]
            time.sleep(0.03)
            done = steps[0]
            pictures.append((before, done))
    over.set()
    trainer.join()
    assert all(before == after for before, after in pictures)


def test_a_training_goes_on_when_a_picture_is_killed(space: Workspace) -> None:
    def draw() -> None:
        with DeviceLock(space).for_picture():
            time.sleep(60)

    process = multiprocessing.get_context("fork").Process(target=draw, daemon=True)
    process.start()
    while not is_locked(space, "turn"):
        time.sleep(0.005)
    device = DeviceLock(space)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with device.for_training():
        device.give_way()


@pytest.fixture
def busy_queues(space: Workspace) -> Iterator[None]:
    """Other workers have the queues, so that those started here wait and import no PyTorch."""
    with queue_lock(space, "train"), queue_lock(space, "render"):
        yield


def test_a_worker_that_dies_is_started_again(space: Workspace, busy_queues: None) -> None:
    with workers(space):
        deadline = time.monotonic() + 120
        while len(first := children()) < 2:  # the list in /proc may miss one for a moment
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(first[0], signal.SIGKILL)
        while len(now := children()) < 2 or first[0] in now:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert first[1] in now
    assert children() == []
    assert [one.alive for one in list_workers(space)] == [True, True]  # those before them


# A worker in a step that never ends: it takes a job, and hears nothing of what it is told.
DEAF = """
import signal, sys, time
from pathlib import Path
from studio.queue.worker import claim_job, queue_lock, recover_jobs, write_heartbeat
from studio.workspace import open_workspace
signal.signal(signal.SIGTERM, signal.SIG_IGN)
space = open_workspace(Path(sys.argv[1]))
lock = queue_lock(space, "render")
lock.acquire()
write_heartbeat(space, "render", "starting", started=0.0)
recover_jobs(space, "render")
while not claim_job(space, ("render",)):
    time.sleep(0.01)
time.sleep(600)
"""


def test_a_worker_that_does_not_answer_is_ended_and_started_anew(
    space: Workspace, sd1_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "ANSWER", 1.0)
    monkeypatch.setattr(processes, "ASK", 0.05)
    monkeypatch.setattr(processes, "LOOK", 0.02)
    deaf = [sys.executable, "-c", DEAF, str(space.root)]
    monkeypatch.setattr(processes, "module_command", lambda *_: deaf)
    stuck, next_one = (queue_pictures(space, [a_shot(sd1_folder, seed=n)]).id for n in (1, 2))
    with workers(space, ["render"]):
        wait_for(lambda: get_job(space, stuck).state == "running")
        time.sleep(0.5)
        assert get_job(space, stuck).state == "running"  # nobody asked for anything
        stop_job(space, stuck)
        wait_for(lambda: get_job(space, stuck).state == "stopped")
        assert get_job(space, stuck).error == processes.UNANSWERED
        wait_for(lambda: get_job(space, next_one).state == "running")
    assert get_job(space, next_one).state == "queued"  # told to end, the other did not answer too
    assert not is_locked(space, "render")


def test_a_slow_training_has_two_more_steps_to_hear_that_it_is_to_stop(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = processes._Watched(space, "train", until_empty=True)
    monkeypatch.setattr(processes, "list_stops", lambda *_: {1: Stop(heard=False, step=10.0)})
    monkeypatch.setattr(watched, "_doing", lambda: "job 1: training")
    seconds = iter([100.0, 124.0, 126.0])
    with monkeypatch.context() as clock:
        clock.setattr(processes.time, "monotonic", lambda: next(seconds))
        assert [watched._is_deaf() for _ in range(3)] == [False, False, True]


def test_a_worker_that_has_not_begun_is_ended_at_once(
    space: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sleep = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    monkeypatch.setattr(processes, "module_command", lambda *_: [sys.executable, "-c", sleep])
    with workers(space, ["render"]):
        wait_for(lambda: bool(children("SIG_IGN")))
        time.sleep(0.3)  # until it ignores the signal
    assert children("SIG_IGN") == [] and "did not answer" not in capsys.readouterr().err


def test_who_waits_for_the_device_hears_that_its_job_is_to_stop(space: Workspace) -> None:
    device, other = DeviceLock(space), DeviceLock(space)
    asked = iter([None, "stopped", "stopped", "stopped"])
    with other.for_picture():
        with device.for_training(lambda: next(asked)) as ended:  # pyright: ignore
            assert ended == "stopped"
        with device.for_picture(lambda: next(asked)) as ended:  # pyright: ignore
            assert ended == "stopped"
    with device.for_training() as ended:
        assert ended is None


def wait_for(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children(word: str = "worker") -> list[int]:
    """The processes that this one has started, with this word, and that have not ended."""
    threads = Path("/proc/self/task").glob("*/children")
    listed = [int(pid) for thread in threads for pid in text_of(thread).split()]
    return sorted(pid for pid in listed if word in text_of(Path(f"/proc/{pid}/cmdline")))


def text_of(file: Path) -> str:
    """Of a thread or a process, which may be gone by now: then there is none."""
    try:
        return file.read_text()
    except OSError:
        return ""


def test_nothing_is_claimed_without_a_worker(space: Workspace, training: Job) -> None:
    assert get_job(space, training.id).state == "queued"
    assert claim_job(space, ("render",)) is None
