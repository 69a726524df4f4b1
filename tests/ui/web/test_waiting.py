"""What a new job would wait for is said beside its estimate."""

from pathlib import Path

from studio.queue.client import add_job
from studio.queue.worker import claim_job, finish_job, report_job
from studio.workspace import open_workspace
from ui.web.server.waiting import waiting


def test_jobs_ahead_are_counted_and_timed(tmp_path: Path) -> None:
    space = open_workspace(tmp_path / "space")
    running = add_job(space, "train", {}, title="a")
    assert waiting(space, ("render", "batch")) == ""
    claim_job(space, ("train",))
    assert waiting(space, ("train",)) == " Waits for 1 other job first."
    report_job(space, running.id, step=5, total=20, seconds=60.0)
    assert waiting(space, ("train",)) == " Waits about 3 min for 1 other job first."
    add_job(space, "train", {}, title="b")
    assert waiting(space, ("train",)) == " Waits for 2 other jobs first."
    finish_job(space, running.id, "done")
    assert waiting(space, ("train",)) == " Waits for 1 other job first."
