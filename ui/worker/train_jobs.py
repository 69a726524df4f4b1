"""A queued training, done by a worker: from its start or from its last checkpoint."""

from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import trainers
from studio.queue.client import Job, State
from studio.queue.worker import report_job
from studio.workspace import add_adapter
from trainers import Drawn, Encoded, Finished, Progress, Sampled, Saved, Started, Step
from ui.cli.train import SMOOTHED, draw_with
from ui.shared.queue_requests import Training
from ui.worker.context import JobProgress, WorkerContext

if TYPE_CHECKING:
    from studio.bases.base import Base

__all__ = ["begun", "train"]


def train(context: WorkerContext, job: Job) -> State:
    """Do a training and put its adapter into the library; how it ended.

    A job that was killed at any moment, or stopped, may be given again: a finished run is only
    put into the library, and one that was begun is resumed.
    """
    training = Training(**job.arguments)  # pyright: ignore[reportArgumentType]
    finished = context.space.runs / job.run / "adapter.safetensors"
    if not finished.exists():
        state = _steps(context, job, training)
        if state != "done":
            return state
    kept = add_adapter(context.space, finished, name=training.name)
    report_job(context.space, job.id, results=[kept.name])
    return "done"


def _steps(context: WorkerContext, job: Job, training: Training) -> State:
    progress = JobProgress(context, job, phase="opening the base", step=job.step, total=job.total)
    if ended := progress.save(at_once=True):
        return ended
    losses: deque[float] = deque(maxlen=SMOOTHED)
    # Closing it writes the checkpoint.
    events = begun(training, context.space.runs / job.run, context.models.base)
    with closing(events), context.device.for_training():
        for event in events:
            _record(progress, job, event, losses)
            minor = isinstance(event, Drawn | Encoded | Step)
            if not isinstance(event, Finished) and (ended := progress.save(at_once=not minor)):
                return ended
            context.device.give_way()
    progress.save(at_once=True)
    return "done"


def begun(
    training: Training, run: Path, opened: "Callable[[str, Mapping[str, object]], Base]"
) -> Generator[Progress, None, None]:
    """The training in this folder, from its start or from its last checkpoint.

    opened: gives a base by its source and fields of ui.shared.loading.Loading.
    """
    if (run / "recipe.toml").exists():
        then = trainers.base_of(run)
        base = opened(then.pop("source"), then | training.loading)
        return trainers.resume(run, base, kind=training.kind, draw=draw_with(base))
    trigger, recipe, prior = training.trigger, training.recipe, training.prior_pictures
    # Before the base is opened.
    given = {"prior_pictures": prior, "init": training.init, **recipe}
    trainers.check(training.folders(), trigger=trigger, **given)
    base = opened(training.base, training.loading)
    return trainers.train(
        training.made_kind(),
        base,
        training.folders(),
        trigger=trigger,
        run=run,
        draw=draw_with(base),
        **given,
    )


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
