"""The arguments and answers of the API's endpoints: files, jobs and JSON objects."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_origin, get_type_hints

from gradio.data_classes import FileData

from studio.errors import BadInput
from studio.queue.client import get_job
from studio.queue.job import Job
from studio.requests.validation import check_fields
from studio.workspace import Workspace, get_picture, list_bases
from ui.web.server.downloads import web_folder

P = ParamSpec("P")
R = TypeVar("R")
JsonObject = dict[str, Any]
POLL_INTERVAL = 0.1  # seconds


class Endpoints:
    """A group of endpoints: every public method is one."""

    def __init__(self, space: Workspace) -> None:
        self._space = space


def check_arguments(endpoint: Callable[P, R]) -> Callable[P, R]:
    """Decorate an endpoint to refuse arguments of wrong types, with a BadInput that names them.

    Gradio passes on whatever a program sends.
    """
    hints = get_type_hints(endpoint)
    fields = [(name, _checkable(hints[name])) for name in signature(endpoint).parameters]
    table = dataclasses.make_dataclass(getattr(endpoint, "__name__", "endpoint"), fields)
    table.__module__ = __name__

    @wraps(endpoint)
    def run(*args: P.args, **given: P.kwargs) -> R:
        check_fields(table, signature(endpoint).bind(*args, **given).arguments)
        return endpoint(*args, **given)

    return run


def _checkable(hint: Any) -> Any:
    """The type to check an argument for. A file may be anything here: `uploaded_file` checks it."""
    if "FileData" not in str(hint):
        return hint
    return list[Any] if get_origin(hint) is list else Any


def job_facts(job: Job) -> JsonObject:
    """A job as JSON, without its arguments. left: seconds."""
    facts = dataclasses.asdict(job) | {"left": job.seconds_left, "results": list(job.results)}
    del facts["arguments"]
    return facts


def job_pictures(space: Workspace, job: Job) -> list[FileData]:
    """The pictures that a job has made so far."""
    if job.kind == "train":
        return []
    return [file_data(get_picture(space, id).path) for id in job.finished_results]


def wait_for_job(space: Workspace, id: int, *, seconds: float = 3600.0) -> Job:
    """Wait until a job has ended, but no longer than `seconds`; returns the job."""
    deadline = time.monotonic() + seconds
    while not (job := get_job(space, id)).ended and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL)
    return job


def check_base(space: Workspace, source: str) -> None:
    """Raise BadInput for a base that is not in the workspace's list."""
    if source not in {base.source for base in list_bases(space)}:
        raise BadInput(f"{source} is not among the bases: add it with /add_base first")


def uploaded_file(space: Workspace, file: FileData) -> Path:
    """The path of an uploaded file. Raises BadInput for a file that was not uploaded."""
    path = Path(str(file.get("path") if isinstance(file, Mapping) else getattr(file, "path", None)))
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
    """A file in the form that gradio_client downloads."""
    return FileData(path=str(path), orig_name=path.name)


def without_paths(facts: Any) -> Any:
    """Rename the key `path` to `file` at every depth: gradio_client would download a `path`."""
    if isinstance(facts, Mapping):
        return {
            "file" if key == "path" else key: without_paths(value) for key, value in facts.items()
        }
    return [without_paths(item) for item in facts] if isinstance(facts, list) else facts
