"""Jobs that render pictures.

A preview is written while a picture is drawn. Several pictures are rendered in batches, in small
groups: between two groups a picture that somebody waits for, or a training, gets the device.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from PIL.Image import Image
from torch import Tensor

import compose
from studio.bases.base import Base
from studio.errors import BadInput
from studio.files import atomic_write
from studio.queue.job import Job, State
from studio.queue.worker import report_job
from studio.requests.picture_file import save_picture
from studio.requests.resolved_shot import with_size
from studio.requests.shot import Shot
from studio.workspace import next_picture_path
from ui.shared.loading import free_unused
from ui.shared.queue_requests import drawing_of
from ui.worker.context import JobProgress, WorkerContext, patiently
from ui.worker.schedule_summary import save_summary, summarize

PREVIEW_SIDE = 512  # pixels of a preview's longer side
PREVIEW_EVERY = 0.15  # seconds between two previews
MOST_IN_GROUP = 4  # shots; waiting pictures have to wait until the current group is done
MOST_NAMED = 20  # failed shots that a message lists
LONGEST = 60  # characters of a prompt in a message
Pause = Callable[[float], None]


def render(context: WorkerContext, job: Job, *, pause: Pause | None = None) -> State:
    """Render the job's missing pictures; returns the state in which the job ends.

    Raises BadInput that names the failed shots, once the others are rendered. pause: called between
    groups with the seconds that the last group took.
    """
    run = _RenderRun.begin(context, job)
    single = len(run.shots) == 1
    ended = _render_single(run) if single and run.missing else _render_batch(run, pause)
    if ended:
        return ended
    if single and job.kind == "render":
        _save_schedule(run)
    run.progress.save(at_once=True)
    if run.failed:
        raise BadInput(_describe_failures(run.shots, run.failed))
    return "done"


@dataclass
class _RenderRun:
    """A job's shots and their outcomes.

    results: the picture ids of the shots, in order; "" where a shot has none. failed: reasons, by
    the shot's number.
    """

    progress: JobProgress
    shots: list[Shot]
    loading: Mapping[str, object]
    results: list[str]
    failed: dict[int, str] = field(default_factory=dict)

    @classmethod
    def begin(cls, context: WorkerContext, job: Job) -> "_RenderRun":
        drawing = drawing_of(job)
        shots = drawing.all_shots()
        done = len(job.finished_results)
        progress = JobProgress(context, job, step=done, total=len(shots), seconds=job.seconds)
        return cls(progress, shots, drawing.loading, list(job.results))

    @property
    def context(self) -> WorkerContext:
        return self.progress.context

    @property
    def missing(self) -> set[int]:
        """The numbers of the shots that have no picture and have not failed."""
        done = {number for number, id in enumerate(self.results) if id}
        return set(range(len(self.shots))) - done - set(self.failed)

    def open_base(self, source: str) -> Base:
        return self.context.models.base(source, self.loading)

    def keep(self, number: int, picture: Image) -> None:
        """Save a shot's picture in the history."""
        place = next_picture_path(self.context.space, self.shots[number].prompt)
        path = save_picture(picture, place)
        self._set_result(number, f"{path.parent.name}/{path.name}")

    def fail(self, number: int, reason: str) -> None:
        """Record that a shot has failed, and why."""
        self.failed[number] = reason
        self._set_result(number, "")

    def _set_result(self, number: int, id: str) -> None:
        self.results += [""] * (number + 1 - len(self.results))
        self.results[number] = id
        job, space = self.progress.job, self.context.space
        patiently(lambda: report_job(space, job.id, results=self.results))
        if len(self.shots) > 1:
            self.progress.step += 1


def _render_single(run: _RenderRun) -> State | None:
    progress = run.progress
    if ended := progress.enter("opening the base"):
        return ended
    base = run.open_base(run.shots[0].base)
    shot = run.context.models.adapters(run.shots).resolve(run.shots[0])
    progress.enter("waiting for the device")
    with run.context.device.for_picture(progress.save) as ended:
        if ended:
            return ended
        if time := compose.time_note(base, shot):
            progress.enter(f"drawing, {time} in all")
        latents = _denoise(run, compose.denoise(base, shot))
        if isinstance(latents, str):
            return latents
        picture = compose.decode(base, shot, latents)
    run.keep(0, picture)
    return None


def _denoise(run: _RenderRun, events: Iterator[compose.Step | compose.Done]) -> Tensor | State:
    """Run a picture's steps; returns its latents, or the state in which the job must end."""
    progress, begun = run.progress, time.monotonic()
    with closing(_Preview(run)) as preview:
        for event in events:
            if isinstance(event, compose.Done):
                return event.latents
            progress.step, progress.total, progress.phase = event.step, event.steps, "rendering"
            progress.seconds = time.monotonic() - begun
            if ended := progress.save():
                return ended
            if event.step < event.steps:
                preview.show(event.preview)
    raise AssertionError("the steps ended without latents")


class _Preview:
    """The file with the preview of the picture that is being drawn."""

    def __init__(self, run: _RenderRun) -> None:
        self._path = run.context.space.cache / "live" / f"{run.progress.job.id}.png"
        self._shown = time.monotonic()

    def show(self, paint: Callable[[], Image]) -> None:
        """Write the preview, unless the last one is only a moment old."""
        if time.monotonic() <= self._shown + PREVIEW_EVERY:
            return
        picture = paint()
        picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        with atomic_write(self._path, durable=False) as file:
            picture.save(file, "PNG")
        self._shown = time.monotonic()

    def close(self) -> None:
        """Remove the preview."""
        self._path.unlink(missing_ok=True)


def _render_batch(run: _RenderRun, pause: Pause | None) -> State | None:
    for source in dict.fromkeys(shot.base for shot in run.shots):
        numbers = [number for number, shot in enumerate(run.shots) if shot.base == source]
        if run.missing.isdisjoint(numbers):
            continue
        if ended := _render_on_base(run, source, numbers, pause):
            return ended
    return None


def _render_on_base(
    run: _RenderRun, source: str, numbers: Sequence[int], pause: Pause | None
) -> State | None:
    """Render the missing shots of one base."""
    if ended := run.progress.enter("opening the base"):
        return ended
    sized = _with_sizes(run, run.open_base(source), numbers)
    groups = _groups(run, source, list(sized.values())) if sized else []
    if isinstance(groups, str):
        return groups
    places = list(sized)
    for group in groups:
        wanted = {number: places[number] for number in group.numbers}
        if run.missing.isdisjoint(wanted.values()):
            continue
        begun = time.monotonic()
        if ended := _render_group(run, source, list(sized.values()), group, wanted):
            return ended
        spent = time.monotonic() - begun
        run.progress.seconds += spent
        if pause and run.missing:
            pause(spent)
    return None


def _with_sizes(run: _RenderRun, base: Base, numbers: Sequence[int]) -> dict[int, Shot]:
    """The shots that can be rendered on this base, with their sizes set, by number."""
    sized: dict[int, Shot] = {}
    for number in numbers:
        try:
            sized[number] = with_size(run.shots[number], base)
        except BadInput as error:
            if number in run.missing:
                run.fail(number, str(error))
    return sized


def _groups(run: _RenderRun, source: str, shots: Sequence[Shot]) -> list[compose.Group] | State:
    """The groups of all shots, or the state in which the job must end.

    Shots that have a picture are grouped too, so that the groups are the same after an
    interruption.
    """
    base = run.open_base(source)
    with run.context.device.for_picture(run.progress.save) as ended:
        if ended:
            return ended
        sizes = compose.batch_sizes(base, shots, run.context.models.adapters(shots))
    limited = {pixels: min(size, MOST_IN_GROUP) for pixels, size in sizes.items()}
    groups = compose.group_shots(shots, limited)
    return sorted(groups, key=lambda group: min(group.numbers))


def _render_group(
    run: _RenderRun,
    source: str,
    shots: Sequence[Shot],
    group: compose.Group,
    wanted: Mapping[int, int],
) -> State | None:
    """Render a group. wanted: maps each shot's number in `shots` to its number in the job."""
    if ended := run.progress.enter("waiting for the device"):
        return ended
    base = run.open_base(source)  # meanwhile another job may have opened another base
    adapters = run.context.models.adapters(shots[number] for number in wanted)
    events = compose.render_groups(base, shots, [group], adapters)
    turn = run.context.device.for_picture(run.progress.save)
    with turn as ended, closing(events), closing(_Preview(run)) as preview:
        if ended:
            return ended
        for event in events:
            match event:
                case compose.GroupStep(_, step, steps) as advanced:
                    run.progress.phase = f"{_name(wanted.values())}, step {step} of {steps}"
                    if ended := run.progress.save():
                        return ended
                    preview.show(advanced.preview)
                case compose.Made(number, _, picture) if wanted[number] in run.missing:
                    run.keep(wanted[number], picture)
                case compose.Failed(number, _, reason) if wanted[number] in run.missing:
                    run.fail(wanted[number], reason)
    if not run.failed.keys().isdisjoint(wanted.values()):
        free_unused()  # the group may have run out of memory
    return None


def _name(numbers: Iterable[int]) -> str:
    """Such as "picture 3" or "pictures 3, 5, 6"."""
    named = ", ".join(str(number + 1) for number in sorted(numbers))
    return f"picture {named}" if "," not in named else f"pictures {named}"


def _describe_failures(shots: Sequence[Shot], failed: Mapping[int, str]) -> str:
    """The failed shots and their reasons, one line each; only the first ones if there are many."""
    if len(shots) == 1:
        return failed[0]
    lines = [f"{len(failed)} of {len(shots)} pictures could not be drawn:"]
    for number, reason in sorted(failed.items())[:MOST_NAMED]:
        shot = shots[number]
        lines.append(f"picture {number + 1} ({shot.prompt[:LONGEST]}, seed {shot.seed}): {reason}")
    if len(failed) > MOST_NAMED:
        lines.append(f"and {len(failed) - MOST_NAMED} more")
    return "\n".join(lines)


def _save_schedule(run: _RenderRun) -> None:
    """Save the schedule for the web page if it depends on the weights, which are loaded here."""
    shot = run.shots[0]
    try:
        compose.outline(shot)
    except compose.NeedsWeights:
        base = run.open_base(shot.base)
        resolved = run.context.models.adapters([shot]).resolve(shot)
        schedule = compose.schedule(resolved, base)
        save_summary(run.context.space, shot, summarize(schedule))
