"""Endpoints for jobs: queue a training; list, watch, move and stop jobs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from gradio.data_classes import FileData

import trainers
from studio.dataset.folders import Folder
from studio.errors import BadInput
from studio.queue.client import (
    Place,
    ask_job,
    get_job,
    list_jobs,
    move_job,
    remove_job,
    restore_job,
    resume_job,
    stop_job,
)
from studio.requests.training import from_table
from studio.training_asks import Ask
from studio.workspace import Workspace, add_upload, create_set, delete_set, write_caption
from ui.shared.queue_requests import queue_training
from ui.web.api.values import (
    Endpoints,
    JsonObject,
    check_base,
    job_facts,
    job_pictures,
    uploaded_file,
    wait_for_job,
)

LONGEST_WAIT = 3600.0  # seconds


class JobEndpoints(Endpoints):
    """The API's endpoints for jobs."""

    def train(
        self,
        trigger: str,
        pictures: list[FileData],
        captions: list[str] | None = None,
        kind: str = "lora",
        base: str = "sketch",
        options: JsonObject | None = None,
        recipe: JsonObject | None = None,
        name: str = "",
    ) -> JsonObject:
        """Queue a training; its adapter joins the library. Returns the job.

        Parameters:
            trigger: the trigger words that the adapter learns, such as "sks robot"
            pictures: [handle_file("1.png"), handle_file("2.png")]
            captions: a caption for each picture; a picture without one gets the trigger words
            kind: adapter type: lora, tlora, diffusekrona, blora, oft or sara
            base: a source that /list_bases returns
            options: options of the adapter type, such as {"rank": 16}
            recipe: settings of the training, such as {"steps": 400, "lr": 0.001}
            name: the adapter's name in the library; the trigger words if not given
        """
        if len(captions or []) > len(pictures):
            raise BadInput("there are more captions than pictures")
        fields = {"kind": kind, "trigger": trigger, "base": base, "name": name}
        request = from_table({**fields, "options": options or {}, "recipe": recipe or {}})
        trainers.kind_of(request)
        check_base(self._space, base)
        if not pictures:
            raise BadInput("there are no pictures to train on")
        folder = _upload_set(self._space, name or trigger, pictures, captions or [])
        job = queue_training(self._space, replace(request, pictures=(Folder(folder),)))
        return job_facts(job)

    def jobs(self, state: str = "", limit: int = 100) -> list[JsonObject]:
        """List the jobs, the latest first: those that wait, run or have ended.

        Parameters:
            state: only jobs in this state: queued, running, done, failed or stopped
            limit: the most jobs to list
        """
        states: Any = (state,) if state else ()
        jobs = list_jobs(self._space, states=states, limit=max(1, limit))
        return [job_facts(job) for job in jobs]

    def job(self, id: int) -> JsonObject:
        """Return a job: its state, step, total steps, loss, results, and why it failed.

        Parameters:
            id: its number
        """
        return job_facts(get_job(self._space, id))

    def wait(self, id: int, seconds: float = 600.0) -> JsonObject:
        """Wait until a job has ended, but no longer than `seconds`. Returns the job.

        Parameters:
            id: its number
            seconds: the longest wait; at most 3600
        """
        return job_facts(wait_for_job(self._space, id, seconds=min(seconds, LONGEST_WAIT)))

    def pictures_of(self, id: int) -> list[FileData]:
        """Return the pictures that a job has made so far.

        Parameters:
            id: its number
        """
        return job_pictures(self._space, get_job(self._space, id))

    def stop(self, id: int) -> JsonObject:
        """Stop a job; a training keeps its checkpoint.

        Parameters:
            id: its number
        """
        return job_facts(stop_job(self._space, id))

    def move(self, id: int, to: Place = "first") -> JsonObject:
        """Move a waiting job forward or back among the waiting jobs of its kind.

        Parameters:
            id: its number
            to: first, earlier, later or last
        """
        return job_facts(move_job(self._space, id, to))

    def ask(self, id: int, what: Ask = "sample") -> JsonObject:
        """Let a running training draw its sample pictures or save a checkpoint now.

        Parameters:
            id: its number
            what: sample or save
        """
        return job_facts(ask_job(self._space, id, what))

    def resume(self, id: int) -> JsonObject:
        """Resume a job that was stopped or has failed.

        Parameters:
            id: its number
        """
        return job_facts(resume_job(self._space, id))

    def remove(self, id: int) -> int:
        """Remove a job from the list; its results stay.

        Parameters:
            id: its number
        """
        remove_job(self._space, id)
        return id

    def restore(self, id: int) -> JsonObject:
        """Bring a removed job back.

        Parameters:
            id: its number
        """
        return job_facts(restore_job(self._space, id))


def _upload_set(space: Workspace, name: str, pictures: list[FileData], captions: list[str]) -> Path:
    """Put uploaded pictures into a new set; returns its folder. A BadInput leaves no set behind."""
    files = [uploaded_file(space, picture) for picture in pictures]
    folder = create_set(space, name)
    captions = captions + [""] * (len(files) - len(captions))
    try:
        for file, caption in zip(files, captions, strict=True):
            picture = add_upload(space, folder.name, file)
            write_caption(space, folder.name, picture.name, caption)
    except BadInput:
        delete_set(space, folder.name)
        raise
    return folder.path
