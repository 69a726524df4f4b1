"""Batches as HTML, and as a file to take away."""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from studio.duration import format_duration
from studio.errors import BadInput
from studio.queue.job import Job
from studio.requests.shot import Shot
from studio.requests.shot_recipe import shot_to_dict
from studio.workspace import Workspace, get_picture, thumbnail
from ui.batch.contact_sheet import write_sheets
from ui.shared.queue_requests import drawing_of
from ui.web.server.downloads import file_url, write_download

__all__ = ["batch_rows", "pictures", "progress", "shots_in", "zipped"]

SHOWN = 240  # pictures of a batch on the page, the latest
NO_PICTURES = '<div class="empty">The first picture will appear here.</div>'


def batch_rows(jobs: Sequence[Job], *, chosen: int | None) -> str:
    """The batches as buttons that say their number."""
    return "".join(
        f'<button type="button" class="entry pick" data-name="{job.id}" '
        f'aria-pressed="{str(job.id == chosen).lower()}"><span>{escape(job.title)}</span>'
        f"<small>{_state(job)}</small></button>"
        for job in jobs
    )


def progress(job: Job) -> str:
    """Where a batch is: a bar and a sentence."""
    share = 100 * job.step / job.total if job.total else 0
    said = f"{_state(job)}"
    if job.state == "running" and job.phase:
        said += f" · {job.phase}"
    if job.seconds_left is not None:
        said += f" · about {format_duration(job.seconds_left)} left"
    why = "".join(f'<p class="problem">{escape(line)}</p>' for line in job.error.splitlines())
    why += f"<p>{escape(job.advice)}</p>" if job.advice else ""
    return (
        f'<div class="batch"><b>{escape(job.title)}</b>'
        f'<div class="bar" role="progressbar" aria-valuenow="{share:.0f}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-label="Pictures made"><i style="width:{share:.1f}%"></i></div>'
        f"<span>{escape(said)}</span>{why}</div>"
    )


def pictures(space: Workspace, job: Job) -> str:
    """The latest pictures of a batch, in their order, each a link to the whole one."""
    cells = [
        cell
        for number, id in [one for one in enumerate(job.results) if one[1]][-SHOWN:]
        if (cell := _cell(space, id, shot=_told(job, number)))
    ]
    if not cells:
        return NO_PICTURES if not job.ended else ""
    return f'<div class="sheet">{"".join(cells)}</div>'


def shots_in(job: Job) -> list[Shot]:
    """The shots of a batch."""
    return drawing_of(job).all_shots()


def zipped(space: Workspace, job: Job) -> Path:
    """What a batch has made, as a zip to take away: pictures, results.jsonl and contact sheets."""
    if not job.finished_results:
        raise BadInput("this batch has made no picture yet")
    return write_download(space, f"batch-{job.id}.zip", lambda place: _zip(space, job, place))


def _zip(space: Workspace, job: Job, place: Path) -> None:
    shots, names, lines = shots_in(job), list[str](), list[str]()
    there = list[Shot]()
    with TemporaryDirectory(dir=space.cache) as scratch, ZipFile(place, "w") as archive:
        folder = Path(scratch)
        for number, (shot, id) in enumerate(zip(shots, job.results, strict=False), start=1):
            if not id:
                continue
            try:
                file = get_picture(space, id).path
            except BadInput:
                continue  # deleted since
            name = f"{number:04d}-{file.name.partition('-')[2] or file.name}"
            (folder / name).symlink_to(file)
            archive.write(file, name)
            names.append(name)
            there.append(shot)
            line = {"file": name, "made": True} | shot_to_dict(shot)
            lines.append(json.dumps(line, ensure_ascii=False))
        if not names:
            raise BadInput("the pictures of this batch were deleted")
        write_sheets(folder, job.title, there, names, {})
        for sheet in sorted(folder.glob("sheet*")):
            archive.write(sheet, sheet.name)
        archive.writestr("results.jsonl", "".join(f"{line}\n" for line in lines))


def _told(job: Job, number: int) -> str:
    shot = drawing_of(job).shots[number]
    return f"{shot['prompt']}, seed {shot['seed']}"


def _cell(space: Workspace, id: str, *, shot: str) -> str:
    with suppress(BadInput):  # deleted since
        small, whole = thumbnail(space, id), get_picture(space, id).path
        return (
            f'<a href="{escape(file_url(whole))}" target="_blank" title="{escape(shot)}">'
            f'<img src="{escape(file_url(small))}" alt="{escape(shot)}" loading="lazy"></a>'
        )
    return ""


def _state(job: Job) -> str:
    made = f"{len(job.finished_results)} of {job.total or len(drawing_of(job).shots)}"
    # Pictures come in groups, not in order: a gap in the results may still be filled.
    if (left_out := job.step - len(job.finished_results)) > 0 and job.total > 1:
        made += f", {left_out} could not be drawn"
    if job.state == "queued":
        return f"waits, {made}"
    if job.state == "running":
        return f"{made}{', stopping' if job.stopping else ''}"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.finished or job.created))
    return f"{job.state}, {made}, {when}"
