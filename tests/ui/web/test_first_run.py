"""The first run: every step offers the next one, and the card goes once it was of use."""

from pathlib import Path

from studio.queue.client import list_jobs
from studio.queue.worker import claim_job, finish_job, report_job
from studio.requests.shot import Shot
from studio.workspace import Workspace, adapter_path, add_adapter, list_sets
from tests.ui.web.test_library import an_adapter
from ui.shared.queue_requests import queue_pictures
from ui.web.first_run import STEPS, first_run_html, take_pictures, train_both


def offered(space: Workspace) -> list[str]:
    html = first_run_html(space)
    return [name for name in ("pictures", "train", "mix") if f'data-name="{name}"' in html]


def test_three_clicks_lead_to_a_mix(space: Workspace, tmp_path: Path) -> None:
    assert offered(space) == ["pictures"]
    take_pictures(space)
    assert {one.name for one in list_sets(space)} == {"robot", "glass"}
    assert offered(space) == ["train"]

    train_both(space)
    train_both(space)
    jobs = list_jobs(space, kinds=("train",))
    assert {job.title for job in jobs} == {"sks robot", "glass style"}
    assert {job.arguments["recipe"]["steps"] for job in jobs} == {STEPS}  # pyright: ignore
    assert "Starts in a moment" in first_run_html(space)

    for name, percent in (("robot", 25), ("glass", 75)):
        job = claim_job(space, ("train",))
        assert job
        report_job(space, job.id, step=STEPS // 2, total=STEPS, seconds=15.0)
        assert offered(space) == []
        assert f"{name.capitalize()}: step 30 of 60, 15 s left" in first_run_html(space)
        assert f"width:{percent:.1f}%" in first_run_html(space)
        file = an_adapter().save(tmp_path / f"{name}.safetensors")
        adapter = add_adapter(space, file, name=name)
        report_job(space, job.id, step=STEPS, total=STEPS, results=[adapter.name])
        finish_job(space, job.id, "done")
    assert offered(space) == ["mix"]

    both = tuple((adapter_path(space, name), 1.0) for name in ("robot", "glass"))
    queue_pictures(space, [Shot("sks robot, glass style", adapters=both)])
    assert first_run_html(space) == ""


def test_a_training_that_failed_is_offered_again(space: Workspace) -> None:
    take_pictures(space)
    train_both(space)
    for state in ("failed", "stopped"):
        job = claim_job(space, ("train",))
        assert job
        finish_job(space, job.id, state)  # pyright: ignore[reportArgumentType]
    assert offered(space) == ["train"]
    train_both(space)
    assert len(list_jobs(space, kinds=("train",))) == 4


def test_who_has_an_adapter_needs_no_first_run(space: Workspace, tmp_path: Path) -> None:
    add_adapter(space, an_adapter().save(tmp_path / "lamp.safetensors"), name="lamp")
    assert first_run_html(space) == ""
