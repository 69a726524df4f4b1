"""Jobs that train: from the start or from the last checkpoint."""

from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

import trainers
from studio.queue.job import Job, State
from studio.queue.worker import report_job
from studio.requests.training import TrainingRequest, from_table
from studio.workspace import add_adapter
from trainers import Drawn, Encoded, Finished, Progress, Sampled, Saved, Started, Step
from ui.shared.training_run import SMOOTHED, draw_with
from ui.worker.context import JobProgress, WorkerContext, patiently

if TYPE_CHECKING:
    from studio.bases.base import Base


class _Ended(Exception):
    """Ends a training while it draws a sample picture. state: in which the job ends."""

    def __init__(self, state: State) -> None:
        self.state: State = state


def train(context: WorkerContext, job: Job) -> State:
    """Run a training and put its adapter into the library; returns the state in which it ended.

    A job that was stopped, or killed at any moment, may be run again: a finished training is only
    put into the library, and a training that has begun is resumed.
    """
    run = context.space.runs / job.run
    request = replace(from_table(job.arguments), run=run)
    finished = run / "adapter.safetensors"
    if not finished.exists():
        try:
            state = _steps(context, job, request)
        except _Ended as ended:
            return ended.state
        if state != "done":
            return state
    kept = add_adapter(context.space, finished, name=request.name)
    patiently(lambda: report_job(context.space, job.id, results=[kept.name]))
    return "done"


def _steps(context: WorkerContext, job: Job, request: TrainingRequest) -> State:
    progress = JobProgress(context, job, step=job.step, total=job.total)
    if ended := progress.enter("opening the base"):
        return ended
    losses: deque[float] = deque(maxlen=SMOOTHED)

    def go_on() -> None:
        """Called between two steps of a sample picture: save progress and lend the device."""
        if ended := progress.save() or context.device.give_way(progress.save):
            raise _Ended(ended)

    # Closing the generator writes a checkpoint.
    events = start_or_resume(request, context.models.base, between=go_on)
    with closing(events), context.device.for_training(progress.save) as ended:
        if ended:
            return ended
        for event in events:
            _record(progress, job, event, losses)
            minor = isinstance(event, Drawn | Encoded | Step)
            if not isinstance(event, Finished) and (ended := progress.save(at_once=not minor)):
                return ended
            if ended := context.device.give_way(progress.save):
                return ended
    progress.save(at_once=True)
    return "done"


def start_or_resume(
    request: TrainingRequest,
    open_base: "Callable[[str, Mapping[str, object]], Base]",
    *,
    between: Callable[[], object] = lambda: None,
) -> Generator[Progress, None, None]:
    """The training in the request's run folder, from its start or from its last checkpoint.

    open_base: gives a base by its source and fields of ui.shared.loading.Loading. between: called
    between the steps of sample pictures, see `draw_with`.
    """
    fields = trainers.drawn_with(request)
    if request.run and (request.run / "recipe.toml").exists():
        then = trainers.base_of(request.run)
        base = open_base(then.pop("source"), {**then, **request.loading})
        draw = draw_with(base, fields, between=between)
        return trainers.resume(request.run, base, kind=request.kind, draw=draw)
    pictures = trainers.check(request)  # before the base is opened
    base = open_base(request.base, request.loading)
    draw = draw_with(base, fields, between=between)
    return trainers.run_request(request, base, draw=draw, pictures=pictures)


def _record(progress: JobProgress, job: Job, event: Progress, losses: deque[float]) -> None:
    match event:
        case Started():
            progress.phase, progress.step, progress.total = "encoding", event.done, event.steps
            # What the steps before the checkpoint took; those after it are made again.
            progress.seconds = job.seconds * event.done / job.step if job.step else 0.0
        case Drawn():
            progress.phase = f"drawing class pictures, {event.done} of {event.total}"
        case Encoded():
            progress.phase = f"encoding {event.done} of {event.total}"
        case Step():
            losses.append(event.loss)
            progress.phase, progress.step = "training", event.step
            progress.loss, progress.seconds = fmean(losses), progress.seconds + event.seconds
        case Sampled():
            progress.phase = f"samples of step {event.step}"
        case Saved():
            progress.phase = f"checkpoint of step {event.step}"
        case Finished():
            progress.phase = "finishing"
