"""What programs call through gradio_client, described on the API page.

Everything goes by the names that the pages show: of adapters in the library, of pictures in the
history, of jobs by their numbers. Files come as gradio_client's `handle_file` sends them.
"""

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from studio.queue.client import get_job, list_jobs, remove_job, restore_job, resume_job, stop_job
from studio.workspace import Workspace
from ui.web.server.api_calls import Facts, job_facts, pictures_in, waited
from ui.web.server.api_library import library_calls
from ui.web.server.api_pictures import picture_calls, training_calls
from ui.web.server.page import show_bad_input

__all__ = ["offer"]


def offer(space: Workspace) -> None:
    """Add the calls to the page under construction."""
    for group in (library_calls, training_calls, picture_calls, _job_calls):
        for call in group(space):
            gr.api(show_bad_input(call), api_name=call.__name__)


def _job_calls(space: Workspace) -> list[Callable]:
    def jobs(state: str = "", limit: int = 100) -> list[Facts]:
        """Trainings and pictures that wait, run or have ended, the latest first.

        Parameters:
            state: only those queued, running, done, failed or stopped
            limit: how many
        """
        states: Any = (state,) if state else ()
        return [job_facts(one) for one in list_jobs(space, states=states, limit=max(1, limit))]

    def job(id: int) -> Facts:
        """A job as it stands: state, step of total, loss, results, and why it failed.

        Parameters:
            id: its number
        """
        return job_facts(get_job(space, id))

    def wait(id: int, seconds: float = 600.0) -> Facts:
        """Answer with a job when it has ended, or after so many seconds.

        Parameters:
            id: its number
            seconds: at most an hour
        """
        return job_facts(waited(space, id, seconds=min(seconds, 3600.0), failing=False))

    def pictures_of(id: int) -> list[FileData]:
        """The pictures that a job has made so far.

        Parameters:
            id: its number
        """
        return pictures_in(space, get_job(space, id))

    def stop(id: int) -> Facts:
        """Stop a job; a training keeps its checkpoint.

        Parameters:
            id: its number
        """
        return job_facts(stop_job(space, id))

    def resume(id: int) -> Facts:
        """Go on with a job that was stopped or has failed.

        Parameters:
            id: its number
        """
        return job_facts(resume_job(space, id))

    def remove(id: int) -> int:
        """Strike a job from the list; what came of it stays.

        Parameters:
            id: its number
        """
        remove_job(space, id)
        return id

    def restore(id: int) -> Facts:
        """Bring a removed job back.

        Parameters:
            id: its number
        """
        return job_facts(restore_job(space, id))

    return [jobs, job, wait, pictures_of, stop, resume, remove, restore]
