"""`studio jobs` and `studio worker`: the queue, and the processes that run its jobs."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Literal

import typer

import trainers
from studio.errors import BadInput
from studio.queue.client import (
    Place,
    ask_job,
    get_job,
    list_jobs,
    list_workers,
    move_job,
    remove_job,
    restore_job,
    resume_job,
    stop_job,
    turns,
)
from studio.queue.job import FINISHED, QUEUES, Job
from studio.requests.training import TrainingRequest
from studio.workspace import DEFAULT_FOLDER, Workspace, clean_name, open_workspace
from ui.cli.options import AsJson, WorkspaceFolder
from ui.shared.queue_requests import queue_training, unfinished
from ui.shared.terminal import print_facts, print_json, print_note, print_table
from ui.shared.train_request import complete

RECENT = 20  # ended jobs that are listed without --all
ALL = 10_000

app = typer.Typer()
jobs_app = typer.Typer(
    name="jobs",
    help="Show and control the queue.",
    epilog="Example: studio jobs list",
    no_args_is_help=True,
)
app.add_typer(jobs_app)
Change = Callable[[Workspace, int], Job | None]  # None where the job was removed
JobNumber = Annotated[int, typer.Argument(help="The job's number in `studio jobs list`.")]


@app.command(epilog="Example: studio worker --until-empty")
def worker(
    *,
    queue: Annotated[
        Literal["train", "render"] | None,
        typer.Option(help="Run only these jobs. Default: both kinds."),
    ] = None,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="End when the queue is empty.")
    ] = False,
    parent: Annotated[
        int | None, typer.Option(hidden=True, help="Be the worker that this process watches.")
    ] = None,
    workspace: WorkspaceFolder = DEFAULT_FOLDER,
) -> None:
    """Run the queued jobs until you stop it."""
    from ui.worker.processes import run_worker, watch_workers

    space = open_workspace(workspace)
    if queue and parent is not None:
        run_worker(space, queue, until_empty=until_empty, parent=parent)
    else:
        watch_workers(space, [queue] if queue else list(QUEUES), until_empty=until_empty)


@jobs_app.command("list", epilog="Example: studio jobs list")
def list_(
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Include jobs that ended long ago.")
    ] = False,
    workspace: WorkspaceFolder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """List the jobs that run, that wait and that ended lately."""
    space = open_workspace(workspace)
    running_first = turns(unfinished(space))
    ended = list_jobs(space, states=FINISHED, limit=ALL if everything else RECENT)
    jobs = [*running_first, *ended]
    if as_json:
        print_json([_facts(job) for job in jobs])
        return
    rows = [(job.id, job.kind, job.title, _state(job), _progress(job)) for job in jobs]
    print_table(("job", "kind", "what", "state", "progress"), rows)
    kinds = {job.kind for job in running_first}
    idle = [
        one.queue
        for one in list_workers(space)
        if not one.alive and not kinds.isdisjoint(QUEUES[one.queue])
    ]
    if idle:
        print_note(f"No worker runs {' or '.join(idle)} jobs now: start one with `studio worker`.")


@jobs_app.command(epilog="Example: studio jobs show 3")
def show(
    job: JobNumber, *, workspace: WorkspaceFolder = DEFAULT_FOLDER, as_json: AsJson = False
) -> None:
    """Show everything about a job."""
    shown = get_job(open_workspace(workspace), job)
    facts = _facts(shown)
    if as_json:
        print_json(facts)
        return
    arguments = facts.pop("arguments")
    assert isinstance(arguments, dict)
    facts["results"] = ", ".join(shown.finished_results)
    for name in ("created", "queued", "started", "finished"):
        moment = getattr(shown, name)
        facts[name] = moment and time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
    facts |= {f"arguments.{name}": value for name, value in arguments.items() if value}
    print_facts(f"Job {job}", facts)


@jobs_app.command(epilog="Example: studio jobs move 3 first")
def move(
    job: JobNumber,
    to: Annotated[Place, typer.Argument(help="Among the waiting jobs of its kind.")],
    *,
    workspace: WorkspaceFolder = DEFAULT_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Move a waiting job up or down the queue."""
    _change(partial(move_job, to=to), job, open_workspace(workspace), as_json=as_json)


CHANGES: dict[str, tuple[Change, str]] = {
    "stop": (stop_job, "Stop a job. A training keeps its checkpoint."),
    "resume": (resume_job, "Continue a job that was stopped or failed."),
    "sample": (
        partial(ask_job, what="sample"),
        "Let a running training draw its sample pictures now.",
    ),
    "save": (partial(ask_job, what="save"), "Let a running training save a checkpoint now."),
    "remove": (remove_job, "Remove a job from the list. A training's folder goes to the trash."),
    "restore": (restore_job, "Bring back a removed job."),
}


def change_command(change: Change) -> Callable[..., None]:
    """A command that makes this change to a job."""

    def command(
        job: JobNumber, *, workspace: WorkspaceFolder = DEFAULT_FOLDER, as_json: AsJson = False
    ) -> None:
        _change(change, job, open_workspace(workspace), as_json=as_json)

    return command


for _name, (_function, _help) in CHANGES.items():
    _example = f"Example: studio jobs {_name} 3"
    jobs_app.command(_name, help=_help, epilog=_example)(change_command(_function))


def enqueue_run(space: Workspace, request: TrainingRequest, *, as_json: bool) -> None:
    """Check a training's pictures and queue it; print how to watch it."""
    if request.run:
        raise BadInput("A queued training gets its folder in the workspace: leave out --run.")
    request = complete(request)
    pictures = trainers.check(replace(request, out=None))  # the library finds a free name
    for remark in pictures.remarks():
        print_note(remark)
    assert request.out  # a complete request has one
    name = clean_name(request.out.stem, otherwise="")
    job = queue_training(space, replace(request, name=name))
    if as_json:
        print_json({"job": job.id, "run": str(space.runs / job.run)})
    else:
        print_note(f"Job {job.id} is queued; `studio jobs list` shows it, `studio worker` runs it")


def _change(change: Change, id: int, space: Workspace, *, as_json: bool) -> None:
    """Change a job and print its new state."""
    job = change(space, id)
    if as_json:
        print_json(_facts(job) if job else {"id": id, "removed": True})
    elif job:
        print_note(f"Job {id} is {_state(job)}")
    else:
        print_note(f"Job {id} is removed; `studio jobs restore {id}` brings it back")


def _facts(job: Job) -> dict[str, object]:
    return {**asdict(job), "left": job.seconds_left}


def _state(job: Job) -> str:
    """The job's state in words, with the reason if it failed."""
    if job.stopping:
        return "stopping"
    if job.state == "failed":
        return f"failed: {'; '.join(filter(None, (job.error, job.advice)))}"
    if job.state == "running" and job.phase:
        return f"running: {job.phase}"
    return job.state


def _progress(job: Job) -> str:
    if job.state == "done":
        return ", ".join(job.finished_results[:3]) + (
            ", ..." if len(job.finished_results) > 3 else ""
        )
    if not job.total:
        return ""
    loss = f", loss {job.loss:.4f}" if job.loss is not None else ""
    left = f", {job.seconds_left:.0f} s left" if job.seconds_left is not None else ""
    return f"{job.step} of {job.total}{loss}{left}"
