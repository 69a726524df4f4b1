"""HTML of the tab Mix: a job, the library and the history."""

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from markupsafe import Markup

from studio.errors import BadInput
from studio.queue.job import Job
from studio.workspace import AdapterFile, PictureFile, Workspace, get_picture, thumbnail
from ui.shared.grid import Table
from ui.shared.queue_requests import drawing_of
from ui.shared.tiles import tiles_note
from ui.web.frontend import METHODS, picture_url, sentence, template
from ui.web.mix.history import favourites

COLOURS = 6  # CSS classes c0 to c5, one for each adapter
INLINE = 300_000  # bytes; pictures up to this size are sent inside the HTML, to be shown sooner


@dataclass(frozen=True)
class _Picture:
    """A picture of the history. words: from its prompt. thumbnail: None if it was deleted."""

    id: str
    words: str
    thumbnail: Path | None


def frame(picture: Path, *, alt: str, forming: bool = False) -> str:
    """The frame with a picture, as large as there is room for."""
    if picture.stat().st_size <= INLINE:
        url = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    else:
        url = picture_url(picture)
    return template("mix/frame.html").render(url=url, alt=alt, forming=forming)


def empty(text: str) -> str:
    """The frame without a picture."""
    return template("mix/no_picture.html").render(sentences=[text], failed=False)


def failed(error: str, advice: str = "") -> str:
    """The frame of a picture that couldn't be made: the reason, and what may help."""
    sentences = [sentence(text) for text in (error, advice) if text]
    return template("mix/no_picture.html").render(sentences=sentences, failed=True)


def comparison(space: Workspace, labels: Table, results: Sequence[str], preview: str) -> str:
    """A comparison as far as it is drawn. preview: the frame of the unfinished picture, or ""."""
    pictures = {
        number: _Picture(id, _prompt_of(id), _thumbnail(space, id))
        for number, id in enumerate(results)
        if id
    }
    forming = next(number for number in count() if number not in pictures)
    return template("mix/comparison.html").render(
        table=labels, pictures=pictures, forming=forming, preview=Markup(preview)
    )


def history(
    space: Workspace,
    pictures: Sequence[PictureFile],
    more: bool,
    picked: Collection[str] = (),
    *,
    searched: bool = False,
) -> str:
    """Thumbnails, the newest first.

    more: whether there are older pictures. picked: ids of the selected pictures.
    """
    marked = favourites(space)
    ids = [picture.id for picture in pictures]
    listed = [_Picture(id, _prompt_of(id), _thumbnail(space, id)) for id in ids]
    present = [picture for picture in listed if picture.thumbnail]
    return template("mix/history.html").render(
        pictures=present, more=more, picked=picked, marked=marked, searched=searched
    )


def library_cards(adapters: Sequence[tuple[AdapterFile, str]]) -> str:
    """The library as cards. adapters: each with the reason why it doesn't fit the base, or ""."""
    fitting_first = sorted(adapters, key=lambda pair: (bool(pair[1]), not pair[0].favourite))
    return template("mix/library.html").render(adapters=fitting_first)


def examples(prompts: Sequence[str]) -> str:
    """Prompts to try."""
    return template("mix/examples.html").render(prompts=prompts)


def slot_head(adapter: AdapterFile | None, name: str, place: int) -> str:
    """The head of an adapter's row in the mix. adapter: None where it was deleted."""
    return template("mix/slot.html").render(
        adapter=adapter, name=name, place=place, colours=COLOURS
    )


def job_note(job: Job, *, more: str = "") -> str:
    """The line about a job: its progress or its results. more: a remark on its picture."""
    match job.state:
        case "queued":
            return note("Waiting in the queue")
        case "running":
            progress = job.step / job.total if job.total else 0.0
            text = "Stopping" if job.stopping else job.phase.capitalize() or "Starting"
            return note(text, progress=progress)
        case "failed":
            return note("Not drawn")
        case "stopped":
            made = len(job.finished_results)
            drawn = f", {made} of {job.total} drawn" if made else ""
            return note(f"Stopped{drawn}{f': {job.error}' if job.error else ''}")
    return note(", ".join(filter(None, (_summary(job), more))))


def recipe_note(recipe: Mapping[str, object], path: Path) -> str:
    """The line about a picture of the history: its main settings and a link to its file."""
    method = recipe.get("method")
    name = method["name"] if isinstance(method, dict) and recipe.get("adapters") else ""
    mixed = f", {METHODS.get(name, (name,))[0]}" if name else ""
    more = f", {tiled}" if (tiled := tiles_note(recipe)) else ""
    return note(f"Seed {recipe.get('seed')}, {recipe.get('steps')} steps{mixed}{more}", file=path)


def note(text: str, *, progress: float | None = None, file: Path | None = None) -> str:
    """The line under the picture. progress: from 0 to 1. file: the picture to save."""
    return template("mix/note.html").render(text=text, progress=progress, file=file)


def notice(problems: Sequence[str]) -> str:
    """A notice of what is missing or unusual in the settings of a picture."""
    return template("mix/notice.html").render(problems=problems)


def _summary(job: Job) -> str:
    shots = drawing_of(job).shots
    took = f", took {job.seconds:.1f} s" if job.seconds else ""
    if len(shots) > 1:
        return f"{len(shots)} pictures{took}; click one to open its settings"
    shot = shots[0]
    return f"Seed {shot['seed']}, {shot['steps']} steps{took}"


def _thumbnail(space: Workspace, id: str) -> Path | None:
    """A picture's thumbnail; None where the picture is gone or damaged."""
    try:
        get_picture(space, id)
        return thumbnail(space, id)
    except BadInput:
        return None


def _prompt_of(id: str) -> str:
    """The words of the prompt that a picture's file name contains."""
    name = id.rpartition("/")[2].removesuffix(".png")
    return name.partition("-")[2] or name
