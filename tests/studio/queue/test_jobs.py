"""The queue: whose turn it is, how jobs end, and what becomes of those of a dead worker."""

import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

import pytest

from studio.errors import BadInput
from studio.queue.client import (
    add_job,
    ask_job,
    get_job,
    list_jobs,
    list_workers,
    move_job,
    remove_job,
    restore_job,
    resume_job,
    stop_job,
)
from studio.queue.job import QUEUES
from studio.queue.worker import (
    MAX_DEATHS,
    claim_job,
    finish_job,
    has_waiting_jobs,
    is_locked,
    list_stops,
    queue_lock,
    recover_jobs,
    report_job,
    requeue_job,
    write_heartbeat,
)
from studio.training_asks import take_ask
from studio.workspace import Workspace, empty_trash, list_trash


def killed_while(doing: Callable[[], None], *, after: Callable[[], bool]) -> None:
    """Do something in another process, and end that with SIGKILL as soon as `after` says so."""
    process = multiprocessing.get_context("fork").Process(target=doing, daemon=True)
    process.start()
    assert process.pid
    while not after():
        assert process.is_alive()
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_jobs_are_taken_in_their_order(space: Workspace) -> None:
    first = add_job(space, "train", {"a": [1, None, "ü"]}, title=" sks \n robot ")
    second = add_job(space, "train", {}, title="")
    assert (first.title, first.run, first.state) == ("sks robot", f"sks robot-{first.id}", "queued")
    assert second.run == f"run-{second.id}"
    taken = claim_job(space, QUEUES["train"])
    assert taken and (taken.id, taken.state, taken.arguments) == (
        first.id,
        "running",
        {"a": [1, None, "ü"]},
    )
    again = claim_job(space, QUEUES["train"])
    assert again and again.id == second.id
    assert claim_job(space, QUEUES["train"]) is None and not has_waiting_jobs(
        space, QUEUES["train"]
    )


def test_only_a_training_that_runs_is_asked_for_samples(space: Workspace) -> None:
    job = add_job(space, "train", {}, title="a")
    with pytest.raises(BadInput, match="is no running training"):
        ask_job(space, job.id, "sample")
    claim_job(space, ("train",))
    run = space.runs / job.run
    run.mkdir()
    ask_job(space, job.id, "sample")
    ask_job(space, job.id, "sample")
    assert [take_ask(run, "sample") for _ in range(2)] == [True, False]
    assert not take_ask(run, "save")


def test_a_waiting_job_is_moved_among_those_of_its_kind(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.queue.client.time.time", lambda: 1e9)  # all in one moment
    batch = add_job(space, "batch", {}, title="a").id
    ids = [add_job(space, "render", {}, title="a").id for _ in range(4)]
    move_job(space, ids[2], "first")
    move_job(space, ids[0], "later")
    move_job(space, ids[3], "earlier")
    move_job(space, ids[1], "last")
    move_job(space, ids[1], "later")  # it is the last already
    move_job(space, batch, "first")  # it gives way to pictures all the same
    taken = [claim_job(space, QUEUES["render"]) for _ in range(5)]
    assert [job and job.id for job in taken] == [ids[2], ids[3], ids[0], ids[1], batch]
    with pytest.raises(BadInput, match="is running: only a waiting one can be moved"):
        move_job(space, batch, "first")


def test_pictures_that_somebody_waits_for_go_before_batches(space: Workspace) -> None:
    ids = [
        add_job(space, kind, {}, title="a").id for kind in ("batch", "render", "train", "render")
    ]
    taken = [claim_job(space, QUEUES["render"]) for _ in range(4)]
    assert [job and job.id for job in taken] == [ids[1], ids[3], ids[0], None]


def test_no_job_is_taken_twice(space: Workspace) -> None:
    for _ in range(20):
        add_job(space, "train", {}, title="a")
    taken: list[int] = []
    ready = threading.Barrier(4)

    def take() -> None:
        ready.wait()
        while job := claim_job(space, ("train",)):
            taken.append(job.id)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 21))


def test_a_job_tells_how_it_goes(space: Workspace) -> None:
    id = add_job(space, "train", {}, title="a").id
    claim_job(space, ("train",))
    assert (
        report_job(space, id, phase="training", step=10, total=40, loss=0.5, seconds=5.0) is False
    )
    report_job(space, id, results=["robot"])
    job = get_job(space, id)
    assert (job.phase, job.step, job.total, job.loss) == ("training", 10, 40, 0.5)
    assert job.results == ("robot",)
    assert job.seconds_left == 30 * 0.5  # half a second a step
    finish_job(space, id, "failed", error="wrong", advice="do this")
    job = get_job(space, id)
    assert (job.state, job.error, job.advice, job.seconds_left) == (
        "failed",
        "wrong",
        "do this",
        None,
    )
    assert job.created <= (job.started or 0) <= (job.finished or 0)


def test_a_waiting_job_stops_at_once_and_a_running_one_is_asked_to(space: Workspace) -> None:
    with queue_lock(space, "train"):
        ids = [add_job(space, "train", {}, title="a").id for _ in range(2)]
        claim_job(space, ("train",))
        assert stop_job(space, ids[1]).state == "stopped"
        assert stop_job(space, ids[0]).stopping and get_job(space, ids[0]).state == "running"
        assert report_job(space, ids[0]) is True
        finish_job(space, ids[0], "stopped")
    for id in ids:
        with pytest.raises(BadInput, match=f"job {id} is stopped already"):
            stop_job(space, id)


def test_a_job_whose_worker_is_dead_can_be_stopped(space: Workspace) -> None:
    id = add_job(space, "train", {}, title="a").id
    claim_job(space, ("train",))
    assert stop_job(space, id).state == "stopped"


def test_a_stopped_job_is_resumed_behind_those_that_wait(space: Workspace) -> None:
    first, second = (add_job(space, "train", {}, title="a").id for _ in range(2))
    stop_job(space, first)
    assert resume_job(space, first).state == "queued"
    with pytest.raises(BadInput, match="only a stopped or failed one"):
        resume_job(space, first)
    taken = [claim_job(space, ("train",)) for _ in range(2)]
    assert [job and job.id for job in taken] == [second, first]


def test_a_worker_that_ends_puts_its_job_back_in_its_place(space: Workspace) -> None:
    first, _ = (add_job(space, "train", {}, title="a").id for _ in range(2))
    claim_job(space, ("train",))
    requeue_job(space, first)
    taken = claim_job(space, ("train",))
    assert taken and taken.id == first


def test_a_job_to_be_stopped_is_not_begun_again_where_its_worker_ends_first(
    space: Workspace,
) -> None:
    job = add_job(space, "train", {}, title="a").id
    with queue_lock(space, "train"):
        claim_job(space, ("train",))
        assert stop_job(space, job).stopping
        requeue_job(space, job)
    stopped = get_job(space, job)
    assert stopped.state == "stopped" and not stopped.stopping
    assert claim_job(space, ("train",)) is None


def test_a_removed_job_comes_back_with_its_folder(space: Workspace) -> None:
    job = add_job(space, "train", {}, title="robot")
    with pytest.raises(BadInput, match="stop it first"):
        remove_job(space, job.id)
    stop_job(space, job.id)
    (space.runs / job.run).mkdir()
    (space.runs / job.run / "log.jsonl").write_text("{}\n")
    remove_job(space, job.id)
    assert list_jobs(space) == [] and list(space.runs.iterdir()) == []
    for ask in (get_job, stop_job, resume_job, remove_job):
        with pytest.raises(BadInput, match=f"no job {job.id}"):
            ask(space, job.id)
    assert restore_job(space, job.id).state == "stopped"
    assert (space.runs / job.run / "log.jsonl").read_text() == "{}\n" and list_trash(space) == []
    remove_job(space, job.id)
    empty_trash(space)
    assert restore_job(space, job.id).id == job.id
    assert add_job(space, "train", {}, title="robot").id > job.id  # no number is given twice


def test_the_list_is_paged_and_chosen_from(space: Workspace) -> None:
    ids = [add_job(space, kind, {}, title="a").id for kind in ("train", "render") * 3]
    stop_job(space, ids[0])
    assert [job.id for job in list_jobs(space, limit=2)] == [6, 5]
    assert [job.id for job in list_jobs(space, limit=2, before=5)] == [4, 3]
    assert [job.id for job in list_jobs(space, kinds=("train",), states=("queued",))] == [5, 3]


# Dead workers.


def test_a_killed_worker_gives_its_queue_back(space: Workspace) -> None:
    id = add_job(space, "train", {}, title="a").id

    def be_worker() -> None:
        with queue_lock(space, "train"):
            write_heartbeat(space, "train", "starting", started=1.0)
            claim_job(space, ("train",))
            report_job(space, id, step=7)
            time.sleep(60)

    def at_work() -> bool:
        worker = list_workers(space)[0]
        return worker.alive and get_job(space, id).step == 7

    killed_while(be_worker, after=at_work)
    assert not is_locked(space, "train")
    assert [one.alive for one in list_workers(space)] == [False, False]
    assert get_job(space, id).state == "running"
    with queue_lock(space, "train"):
        assert [job.id for job in recover_jobs(space, "train")] == [id]
    assert get_job(space, id).state == "queued"


def test_the_database_survives_a_kill_at_any_moment(space: Workspace) -> None:
    """Jobs come in with every stroke of a writer that is killed: each is there whole, or not."""

    def write() -> None:
        while True:
            job = add_job(space, "train", {"text": "x" * 20_000}, title="a")
            report_job(space, job.id, step=job.id)
            finish_job(space, job.id, "done")

    for kills in range(1, 4):
        wanted = len(list_jobs(space, limit=10_000)) + 5 * kills
        killed_while(write, after=partial(_are, space, wanted))
        with closing(sqlite3.connect(space.database)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        jobs = list_jobs(space, limit=10_000)
        assert [job.id for job in jobs] == list(range(len(jobs), 0, -1))
        assert {len(str(job.arguments["text"])) for job in jobs} == {20_000}
        assert all(job.run == f"a-{job.id}" for job in jobs)
        cut_off = [job for job in jobs if job.state != "done"]
        assert len(cut_off) <= kills and {job.state for job in cut_off} <= {"queued"}
        assert all(job.step == job.id for job in jobs if job.state == "done")


def _are(space: Workspace, wanted: int) -> bool:
    return len(list_jobs(space, limit=10_000)) >= wanted


def test_a_job_that_kills_its_workers_fails_in_the_end(space: Workspace) -> None:
    id = add_job(space, "train", {}, title="a").id
    for death in range(1, MAX_DEATHS + 1):
        assert get_job(space, id).state == "queued"
        claim_job(space, ("train",))
        report_job(space, id, step=5)
        recover_jobs(space, "train")
        assert death < MAX_DEATHS or get_job(space, id).state == "failed"
    failed = get_job(space, id)
    assert "ended 3 times without getting further than step 5" in failed.error
    assert "memory" in failed.advice
    resume_job(space, id)
    claim_job(space, ("train",))
    recover_jobs(space, "train")
    assert get_job(space, id).state == "queued"  # it is tried as often again


def test_a_job_that_gets_further_each_time_is_never_given_up(space: Workspace) -> None:
    id = add_job(space, "train", {}, title="a").id
    for death in range(2 * MAX_DEATHS):
        claim_job(space, ("train",))
        report_job(space, id, step=death + 1)
        recover_jobs(space, "train")
    assert get_job(space, id).state == "queued"


def test_an_orphan_that_was_asked_to_stop_has_stopped(space: Workspace) -> None:
    id = add_job(space, "batch", {}, title="a").id
    with queue_lock(space, "render"):
        claim_job(space, QUEUES["render"])
        stop_job(space, id)
        recover_jobs(space, "train")
        assert get_job(space, id).stopping  # not that queue's
        recover_jobs(space, "render")
    assert get_job(space, id).state == "stopped"


def test_a_stop_is_known_to_be_heard_once_the_worker_has_reported(space: Workspace) -> None:
    id = add_job(space, "render", {}, title="a").id
    claim_job(space, QUEUES["render"])
    assert report_job(space, id, step=1) is False and list_stops(space, "render") == {}
    with queue_lock(space, "render"):
        stop_job(space, id)
        assert list_stops(space, "render") == {id: (False, 0)} and list_stops(space, "train") == {}
        assert report_job(space, id, step=2) is True
        stop_job(space, id)
    assert list_stops(space, "render") == {id: (True, 0)} and get_job(space, id).stopping


def test_a_stop_tells_how_long_a_step_of_the_training_takes(space: Workspace) -> None:
    id = add_job(space, "train", {}, title="a").id
    claim_job(space, QUEUES["train"])
    report_job(space, id, step=4, seconds=40.0)
    with queue_lock(space, "train"):
        stop_job(space, id)
        assert list_stops(space, "train") == {id: (False, 10.0)}


def test_a_worker_ended_on_purpose_is_no_death_of_other_jobs(space: Workspace) -> None:
    stopped, other = (add_job(space, "render", {}, title="a").id for _ in range(2))
    for _ in range(MAX_DEATHS + 1):
        claim_job(space, QUEUES["render"])
        recover_jobs(space, "render", reason="it did not answer")
    assert get_job(space, stopped).state == "queued"
    claim_job(space, QUEUES["render"])
    claim_job(space, QUEUES["render"])
    with queue_lock(space, "render"):
        stop_job(space, stopped)
        recover_jobs(space, "render", reason="it did not answer")
    assert (get_job(space, stopped).state, get_job(space, stopped).error) == (
        "stopped",
        "it did not answer",
    )
    assert (get_job(space, other).state, get_job(space, other).error) == ("queued", "")
