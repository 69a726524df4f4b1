"""The tab Queue: all jobs, in the order of their turns, moved and cancelled."""

import re
from functools import partial

from studio.queue.client import add_job, get_job, list_jobs, turns
from studio.queue.worker import claim_job, finish_job, queue_lock
from studio.workspace import Workspace
from ui.web.queue.tab import ACTIONS, cancel_waiting, queue_html
from ui.web.server.meter import Meter
from ui.web.server.polling import _status_html


def test_every_job_stands_there_with_what_can_be_done(space: Workspace) -> None:
    failed = add_job(space, "train", {}, title="<b>robot</b>")
    claim_job(space, ("train",))
    finish_job(space, failed.id, "failed", error="no memory", advice="ask for less")
    running = add_job(space, "batch", {}, title="many")
    claim_job(space, ("batch",))
    a, b, alone = (add_job(space, kind, {}, title=kind).id for kind in ("train", "train", "render"))
    jobs = turns(list_jobs(space, states=("queued", "running")))
    assert [job.id for job in jobs] == [running.id, a, b, alone]
    html = queue_html(jobs, list_jobs(space, states=("failed",)))
    assert set(re.findall(r'data-name="(\S+)"', html)) == {
        f"stop:{running.id}",
        "show:batch",
        *(f"stop:{id}" for id in (a, b, alone)),
        f"later:{a}",
        f"earlier:{b}",
        f"first:{b}",
        f"resume:{failed.id}",
        f"remove:{failed.id}",
    }
    assert "No memory. Ask for less." in html
    assert "&lt;b&gt;robot" in html and "<b>robot" not in html


def test_the_line_above_the_tabs_says_what_runs_and_counts_what_waits(space: Workspace) -> None:
    said = partial(_status_html, space, Meter())
    assert "Ready" in said()
    for title in ("cat", "dog", "fox"):
        add_job(space, "render", {}, title=title)
    assert "3 jobs waiting · starting up" in said()
    claim_job(space, ("render",))
    assert "Drawing cat · 2 jobs waiting" in said() and "dog" not in said()


def test_every_button_does_what_it_says(space: Workspace) -> None:
    ids = [add_job(space, "render", {}, title="a").id for _ in range(3)]
    ACTIONS["later"](space, ids[0])
    ACTIONS["first"](space, ids[2])
    assert [job.id for job in turns(list_jobs(space))] == [ids[2], ids[1], ids[0]]
    ACTIONS["stop"](space, ids[1])
    assert get_job(space, ids[1]).state == "stopped"
    ACTIONS["resume"](space, ids[1])
    taken = claim_job(space, ("render",))
    assert taken and taken.id == ids[2]
    with queue_lock(space, "render"):  # as its worker does
        cancel_waiting(space)
    assert {job.id: job.state for job in list_jobs(space)} == {
        ids[0]: "stopped",
        ids[1]: "stopped",
        ids[2]: "running",
    }
