"""Queued pictures, drawn by a worker; one that is forming can be looked at."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL.Image import Image
from torch import Tensor

import compose
from studio.errors import BadInput
from studio.files import replacing
from studio.jobs import Job, State
from studio.lanes import report_job
from studio.shot import save_picture
from studio.workspace import next_picture
from ui._queue import Drawing
from ui._roll import keep_roll, roll_of
from ui._shift import Account, Shift

__all__ = ["draw"]

LIVE = 512  # pixels of the longer side, of a picture that is forming
LIVE_EVERY = 0.15  # seconds


def draw(shift: Shift, job: Job, *, between: Callable[[float], None] | None = None) -> State:
    """Draw the pictures that are not drawn yet; how it ended.

    between: called after each picture, if there are more, with the seconds that it took.
    """
    drawing = Drawing(**job.arguments)  # pyright: ignore[reportArgumentType]
    made, wanted = list(job.results), len(drawing.shots)
    account = Account(shift, job, step=len(made), total=wanted, seconds=job.seconds)
    while len(made) < wanted:
        begun = time.monotonic()
        picture = _draw_one(account, drawing, len(made))
        if not isinstance(picture, Path):
            return picture
        made.append(f"{picture.parent.name}/{picture.name}")
        report_job(shift.space, job.id, results=made)
        spent = time.monotonic() - begun
        if wanted > 1:
            account.step, account.seconds = len(made), account.seconds + spent
        if between and len(made) < wanted:
            between(spent)
    if job.kind == "render" and wanted == 1:
        _keep_roll(shift, drawing)
    account.write(at_once=True)
    return "done"


def _draw_one(account: Account, drawing: Drawing, number: int) -> Path | State:
    """Draw one of the shots into the history; where it lies, or how the job is to end instead."""
    shift, several = account.shift, len(drawing.shots) > 1
    account.phase = "opening the base"
    if ended := account.write(at_once=True):
        return ended
    shot = drawing.shot(number)
    try:
        base = shift.desk.base(shot.base, drawing.loading)
        shot = shift.desk.settled(shot, base)
        account.phase = "waiting for its turn"
        account.write(at_once=True)
        with shift.turn.for_picture():
            latents = _denoise(account, compose.denoise(base, shot), number if several else None)
            if isinstance(latents, str):
                return latents
            picture = compose.develop(base, shot, latents)
    except BadInput as error:
        raise BadInput(f"picture {number + 1}: {error}" if several else str(error)) from error
    return save_picture(picture, next_picture(shift.space, shot.prompt), shot, base)


def _keep_roll(shift: Shift, drawing: Drawing) -> None:
    """Leave the schedule for pages where only the weights tell it, which are at hand here."""
    shot = drawing.shot(0)
    try:
        compose.outline(shot)
    except compose.NeedsWeights:
        base = shift.desk.base(shot.base, drawing.loading)
        found = compose.schedule(shift.desk.settled(shot, base), base)
        keep_roll(shift.space, shot, roll_of(found))


def _denoise(
    account: Account, progress: Iterator[compose.Step | compose.Done], number: int | None
) -> Tensor | State:
    """Make the steps; the latents, or how the job is to end instead."""
    live = account.shift.space.cache / "live" / f"{account.job.id}.png"
    shown = begun = time.monotonic()
    try:
        for event in progress:
            if isinstance(event, compose.Done):
                return event.latents
            if number is None:
                account.step, account.total = event.step, event.steps
                account.seconds = time.monotonic() - begun
                account.phase = "drawing"
            else:
                account.phase = f"picture {number + 1}, step {event.step} of {event.steps}"
            if ended := account.write():
                return ended
            if event.step < event.steps and time.monotonic() > shown + LIVE_EVERY:
                _show(event.preview(), live)
                shown = time.monotonic()
    finally:
        live.unlink(missing_ok=True)
    raise AssertionError("the steps ended without latents")


def _show(picture: Image, place: Path) -> None:
    picture.thumbnail((LIVE, LIVE))
    with replacing(place, lasting=False) as file:
        picture.save(file, "PNG")
