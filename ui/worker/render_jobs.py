"""Queued pictures, drawn by a worker; one that is forming can be looked at."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image
from torch import Tensor

import compose
from studio.bases.base import Base
from studio.errors import BadInput
from studio.files import atomic_write
from studio.out_of_memory import is_out_of_memory
from studio.queue.job import Job, State
from studio.queue.worker import report_job
from studio.requests.picture_file import save_picture
from studio.requests.resolved_shot import ResolvedShot
from studio.workspace import next_picture_path
from ui.shared.queue_requests import Drawing, drawing_of
from ui.worker.context import JobProgress, WorkerContext
from ui.worker.out_of_memory import describe_shortage, memory_advice
from ui.worker.schedule_summary import save_summary, summarize

__all__ = ["draw"]

LIVE = 512  # pixels of the longer side, of a picture that is forming
LIVE_EVERY = 0.15  # seconds
NAMED = 20  # shots of a batch that could not be drawn
LONGEST = 60  # letters of a prompt


@dataclass(frozen=True)
class _LeftOut:
    """A shot of a batch that cannot be drawn, and why. no_memory: it wanted more memory."""

    reason: str
    no_memory: bool = False


def draw(
    context: WorkerContext, job: Job, *, between: Callable[[float], None] | None = None
) -> State:
    """Draw the pictures that are not drawn yet; how it ended.

    Of a batch, what cannot be drawn is left out, and named in a BadInput once the others are.
    between: called after each picture, if there are more, with the seconds that it took.
    """
    drawing = drawing_of(job)
    results, wanted = list(job.results), len(drawing.shots)
    missing = [n for n in range(wanted) if n >= len(results) or not results[n]]
    progress = JobProgress(
        context, job, step=wanted - len(missing), total=wanted, seconds=job.seconds
    )
    left_out: dict[int, str] = {}
    for tried, number in enumerate(missing, start=progress.step + 1):
        begun = time.monotonic()
        picture = _draw_one(progress, drawing, number)
        if isinstance(picture, str):
            return picture
        if isinstance(picture, _LeftOut):
            left_out[number] = picture.reason
            if picture.no_memory:
                context.models.clear()
        results[number : number + 1] = [_id(picture)]
        report_job(context.space, job.id, results=results)
        spent = time.monotonic() - begun
        if wanted > 1:
            progress.step, progress.seconds = tried, progress.seconds + spent
        if between and tried < wanted:
            between(spent)
    if job.kind == "render" and wanted == 1:
        _save_schedule(context, drawing)
    progress.save(at_once=True)
    if left_out:
        raise BadInput(_told(drawing, left_out))
    return "done"


def _draw_one(progress: JobProgress, drawing: Drawing, number: int) -> Path | State | _LeftOut:
    """Draw one of the shots into the history; where it lies, or how the job is to end instead.

    A base that cannot be opened, or a history that cannot be written, is no affair of one shot.
    """
    progress.phase = "opening the base"
    if ended := progress.save(at_once=True):
        return ended
    several = len(drawing.shots) > 1
    may_be_left_out = several and progress.job.kind == "batch"
    shot = drawing.shot(number)
    base = progress.context.models.base(shot.base, drawing.loading)
    try:
        resolved = progress.context.models.resolve(shot, base)
        picture = _develop(progress, resolved, base, number if several else None)
    except BadInput as error:
        if may_be_left_out:
            return _LeftOut(str(error))
        raise BadInput(f"picture {number + 1}: {error}" if several else str(error)) from error
    except (MemoryError, RuntimeError) as error:
        if may_be_left_out and is_out_of_memory(error):
            return _LeftOut(
                f"{describe_shortage(error)}; {memory_advice(progress.job)}", no_memory=True
            )
        raise
    if isinstance(picture, str):
        return picture
    return save_picture(picture, next_picture_path(progress.context.space, shot.prompt))


def _develop(
    progress: JobProgress, shot: ResolvedShot, base: Base, number: int | None
) -> Image | State:
    """The picture of a shot. number: of the shot, where there are several."""
    progress.phase = "waiting for its turn"
    progress.save(at_once=True)
    with progress.context.device.for_picture():
        latents = _denoise(progress, compose.denoise(base, shot), number)
        return latents if isinstance(latents, str) else compose.decode(base, shot, latents)


def _id(picture: Path | _LeftOut) -> str:
    """What the history calls it; "" keeps the place of a shot that was left out."""
    return "" if isinstance(picture, _LeftOut) else f"{picture.parent.name}/{picture.name}"


def _told(drawing: Drawing, left_out: Mapping[int, str]) -> str:
    """Which shots were left out and why, a line each, of many the first."""
    lines = [f"{len(left_out)} of {len(drawing.shots)} pictures could not be drawn:"]
    for number, reason in list(left_out.items())[:NAMED]:
        shot = drawing.shots[number]
        called = f"picture {number + 1} ({shot['prompt'][:LONGEST]}, seed {shot['seed']})"
        lines.append(f"{called}: {reason}")
    if len(left_out) > NAMED:
        lines.append(f"and {len(left_out) - NAMED} more")
    return "\n".join(lines)


def _save_schedule(context: WorkerContext, drawing: Drawing) -> None:
    """Leave the schedule for pages where only the weights tell it, which are at hand here."""
    shot = drawing.shot(0)
    try:
        compose.outline(shot)
    except compose.NeedsWeights:
        base = context.models.base(shot.base, drawing.loading)
        found = compose.schedule(context.models.resolve(shot, base), base)
        save_summary(context.space, shot, summarize(found))


def _denoise(
    progress: JobProgress, events: Iterator[compose.Step | compose.Done], number: int | None
) -> Tensor | State:
    """Make the steps; the latents, or how the job is to end instead."""
    live = progress.context.space.cache / "live" / f"{progress.job.id}.png"
    shown = begun = time.monotonic()
    try:
        for event in events:
            if isinstance(event, compose.Done):
                return event.latents
            if number is None:
                progress.step, progress.total = event.step, event.steps
                progress.seconds = time.monotonic() - begun
                progress.phase = "drawing"
            else:
                progress.phase = f"picture {number + 1}, step {event.step} of {event.steps}"
            if ended := progress.save():
                return ended
            if event.step < event.steps and time.monotonic() > shown + LIVE_EVERY:
                _show(event.preview(), live)
                shown = time.monotonic()
    finally:
        live.unlink(missing_ok=True)
    raise AssertionError("the steps ended without latents")


def _show(picture: Image, place: Path) -> None:
    picture.thumbnail((LIVE, LIVE))
    with atomic_write(place, durable=False) as file:
        picture.save(file, "PNG")
