"""The arguments and answers of the API's endpoints: files, jobs and JSON objects."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradio.data_classes import FileData

from studio.errors import BadInput
from studio.queue.client import get_job
from studio.queue.job import Job
from studio.workspace import Workspace, get_picture, list_bases
from ui.web.server.downloads import web_folder

JsonObject = dict[str, Any]
POLL_INTERVAL = 0.1  # seconds


def job_facts(job: Job) -> JsonObject:
    """A job without its arguments."""
    facts = dataclasses.asdict(job) | {"left": job.seconds_left, "results": list(job.results)}
    del facts["arguments"]
    return facts


def job_pictures(space: Workspace, job: Job) -> list[FileData]:
    """The pictures that a job has made so far."""
    if job.kind == "train":
        return []
    return [file_data(get_picture(space, id).path) for id in job.finished_results]


def wait_for_job(space: Workspace, id: int, *, seconds: float = 3600.0) -> Job:
    """The job once it has ended, or after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (job := get_job(space, id)).ended and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL)
    return job


def check_base(space: Workspace, source: str) -> None:
    """Raise BadInput for a base that is not in the workspace's list."""
    if source not in {base.source for base in list_bases(space)}:
        raise BadInput(f"{source} is not among the bases: add it with /add_base first")


def uploaded_file(space: Workspace, file: FileData) -> Path:
    """The path of a file that was uploaded. Raises BadInput for any other path."""
    given: Any = file if isinstance(file, Mapping) else file.model_dump()
    path = Path(str(given.get("path")))
    try:
        real = path.resolve(strict=True)
    except (OSError, ValueError):
        real = None
    if real is None or real != path or not real.is_relative_to(web_folder(space)):
        raise BadInput(
            "that file was not uploaded: give it as handle_file(...) of gradio_client does"
        )
    return real


def file_data(path: Path) -> FileData:
    """A file as gradio_client downloads it."""
    return FileData(path=str(path), orig_name=path.name)


def without_paths(facts: Any) -> Any:
    """The same with `path` renamed to `file`: gradio_client would download what is at a `path`."""
    if isinstance(facts, Mapping):
        return {
            "file" if key == "path" else key: without_paths(value) for key, value in facts.items()
        }
    return [without_paths(one) for one in facts] if isinstance(facts, list) else facts
