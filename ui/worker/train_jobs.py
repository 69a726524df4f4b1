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
from studio.workspace import keep_adapter
from trainers import Drawn, Encoded, Finished, Progress, Sampled, Saved, Started, Step
from ui.cli.train import SMOOTHED, draw_with
from ui.shared.queue_requests import Training
from ui.worker.context import Account, Shift

if TYPE_CHECKING:
    from studio.bases.base import Base

__all__ = ["begun", "train"]


def train(shift: Shift, job: Job) -> State:
    """Do a training and put its adapter into the library; how it ended.

    A job that was killed at any moment, or stopped, may be given again: a finished run is only
    put into the library, and one that was begun is resumed.
    """
    training = Training(**job.arguments)  # pyright: ignore[reportArgumentType]
    finished = shift.space.runs / job.run / "adapter.safetensors"
    if not finished.exists():
        state = _steps(shift, job, training)
        if state != "done":
            return state
    kept = keep_adapter(shift.space, finished, name=training.name)
    report_job(shift.space, job.id, results=[kept.name])
    return "done"


def _steps(shift: Shift, job: Job, training: Training) -> State:
    account = Account(shift, job, phase="opening the base", step=job.step, total=job.total)
    if ended := account.write(at_once=True):
        return ended
    losses: deque[float] = deque(maxlen=SMOOTHED)
    # Closing it writes the checkpoint.
    progress = begun(training, shift.space.runs / job.run, shift.desk.base)
    with closing(progress), shift.turn.for_training():
        for event in progress:
            _take_down(account, job, event, losses)
            minor = isinstance(event, Drawn | Encoded | Step)
            if not isinstance(event, Finished) and (ended := account.write(at_once=not minor)):
                return ended
            shift.turn.hand_over()
    account.write(at_once=True)
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


def _take_down(account: Account, job: Job, event: Progress, losses: deque[float]) -> None:
    match event:
        case Started():
            account.phase, account.step, account.total = "encoding", event.done, event.steps
            # What the steps before the checkpoint took; those after it are made again.
            account.seconds = job.seconds * event.done / job.step if job.step else 0.0
        case Drawn():
            account.phase = f"drawing class pictures, {event.done} of {event.total}"
        case Encoded():
            account.phase = f"encoding {event.done} of {event.total}"
        case Step():
            losses.append(event.loss)
            account.phase, account.step = "training", event.step
            account.loss, account.seconds = fmean(losses), account.seconds + event.seconds
        case Sampled():
            account.phase = f"samples of step {event.step}"
        case Saved():
            account.phase = f"checkpoint of step {event.step}"
        case Finished():
            account.phase = "finishing"
