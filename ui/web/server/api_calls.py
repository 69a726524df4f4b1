"""What the calls of the API share: what they take and what they answer with."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradio.data_classes import FileData

from studio.errors import BadInput
from studio.queue.client import Job, get_job
from studio.workspace import Workspace, get_picture, list_bases
from ui.web.server.downloads import web_folder

__all__ = [
    "Facts",
    "check_base",
    "job_facts",
    "pictures_in",
    "sent",
    "unlinked",
    "uploaded",
    "waited",
]

Facts = dict[str, Any]
POLL = 0.1  # seconds between two looks at a job that is waited for


def job_facts(job: Job) -> Facts:
    """A job as it is told; what it was given is left out."""
    facts = dataclasses.asdict(job) | {"left": job.seconds_left, "results": list(job.results)}
    del facts["arguments"]
    return facts


def pictures_in(space: Workspace, job: Job) -> list[FileData]:
    """The pictures of a job that has made some."""
    if job.kind == "train":
        return []
    return [sent(get_picture(space, id).path) for id in job.finished_results]


def waited(space: Workspace, id: int, *, seconds: float = 3600.0, failing: bool = True) -> Job:
    """A job that has ended. failing: raise BadInput with the reason where it failed."""
    until = time.monotonic() + seconds
    while not (job := get_job(space, id)).ended and time.monotonic() < until:
        time.sleep(POLL)
    if failing and job.state == "failed":
        raise BadInput(f"{job.error}{': ' if job.advice else ''}{job.advice}")
    return job


def check_base(space: Workspace, source: str) -> None:
    """BadInput for a base that is not known here."""
    if source not in {one.source for one in list_bases(space)}:
        raise BadInput(f"{source} is not among the bases: add it with /add_base first")


def uploaded(space: Workspace, file: FileData) -> Path:
    """A file that was sent here; BadInput for a path that was only written down."""
    given: Any = file if isinstance(file, Mapping) else file.model_dump()
    path = Path(str(given.get("path")))
    try:
        real = path.resolve(strict=True)
    except (OSError, ValueError):
        real = None
    if real is None or real != path or not real.is_relative_to(web_folder(space)):
        raise BadInput("that file was not sent: give it as handle_file(...) of gradio_client does")
    return real


def sent(path: Path) -> FileData:
    """A file as gradio_client fetches it."""
    return FileData(path=str(path), orig_name=path.name)


def unlinked(facts: Any) -> Any:
    """The same with other files called `file`: gradio_client would fetch what is called `path`."""
    if isinstance(facts, Mapping):
        return {"file" if key == "path" else key: unlinked(one) for key, one in facts.items()}
    return [unlinked(one) for one in facts] if isinstance(facts, list) else facts
