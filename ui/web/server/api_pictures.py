"""Endpoints for pictures: making them, and what was made."""

from dataclasses import replace
from functools import partial

from gradio.data_classes import FileData

import compose
from studio.errors import BadInput
from studio.queue.job import Job
from studio.requests.adapter_tags import take_adapter_tags
from studio.requests.picture_file import read_recipe
from studio.requests.prompt_syntax import PromptSyntax
from studio.requests.shot import Shot
from studio.workspace import (
    Workspace,
    adapter_path,
    add_upload,
    create_set,
    delete_picture,
    get_picture,
    list_pictures,
)
from ui.shared.names import split_strength
from ui.shared.queue_requests import queue_pictures
from ui.web.batch.library_names import shots_of
from ui.web.server.api_values import (
    JsonObject,
    check_base,
    file_data,
    job_facts,
    job_pictures,
    uploaded_file,
    wait_for_job,
    without_paths,
)

MOST_PICTURES = 1000  # of one call


class PictureEndpoints:
    """The API's endpoints for pictures."""

    def __init__(self, space: Workspace) -> None:
        self._space = space

    def generate(
        self,
        prompt: str,
        adapters: list[str] | None = None,
        method: str = "merge",
        method_options: JsonObject | None = None,
        negative: str = "",
        base: str = "sketch",
        seed: int = 0,
        count: int = 1,
        width: int | None = None,
        height: int | None = None,
        steps: int = 25,
        guidance: float = 5.0,
        scheduler: str | None = None,
        init_image: FileData | None = None,
        denoise: float = 0.6,
        wait: bool = True,
        spacing: str | None = None,
        clip_skip: int | None = None,
        syntax: PromptSyntax = "a1111",
    ) -> tuple[JsonObject, list[FileData]]:
        """Make pictures. Returns the job and, if it waits for them, the pictures.

        Parameters:
            prompt: what to draw, with the adapters' trigger words; may name adapters of the library
                as <lora:NAME:STRENGTH>
            adapters: NAME, NAME:STRENGTH or NAME:HALF:STRENGTH of each adapter
            method: merge, switch, composite, klora or cmlora
            method_options: such as {"order": "random"}
            negative: negative prompt
            base: a source that /list_bases returns
            seed: of the first picture; the next picture has the next seed
            count: how many pictures
            width: pixels; the base's own if not given
            height: pixels; the base's own if not given
            steps: denoising steps
            guidance: CFG; 1 or less is fastest
            scheduler: the sampler, such as euler_a or dpmpp_2m; the base's own if not given
            init_image: a picture to start from, as handle_file("sketch.png")
            denoise: how much of the schedule is run over a picture to start from
            wait: for the pictures; otherwise /pictures_of returns them when the job is done
            spacing: of the steps, such as trailing or karras; the base's own if not given
            clip_skip: layer of the text encoders from the end, 1 being the last
            syntax: how prompts are read: a1111, plain or cut
        """
        if not 1 <= count <= MOST_PICTURES:
            raise BadInput(f"count: {count} is not from 1 to {MOST_PICTURES}")
        check_base(self._space, base)
        shot = Shot(prompt, base, negative, width=width, height=height, scheduler=scheduler)
        shot = replace(shot, spacing=spacing, steps=steps, guidance=guidance, denoise=denoise)
        mix = tuple(_adapter(self._space, text) for text in adapters or ())
        shot = replace(shot, adapters=mix, syntax=syntax, clip_skip=clip_skip)
        shot = take_adapter_tags(shot, partial(adapter_path, self._space))
        if shot.adapters:
            shot = replace(shot, method=compose.method_named(method, method_options or {}))
        if init_image:
            shot = replace(shot, init_image=_start_picture(self._space, init_image))
        shots = [replace(shot, seed=seed + number) for number in range(count)]
        return _answer(self._space, queue_pictures(self._space, shots), wait=wait)

    def batch(self, manifest: str, form: str = "toml") -> JsonObject:
        """Queue the pictures of a manifest; returns the job.

        Its results are in the manifest's order, "" for a picture that failed. The job has failed
        then, its error names each of those, and the other pictures are made.

        Parameters:
            manifest: its text; adapters go by their names in the library
            form: toml, jsonl or csv
        """
        shots = shots_of(self._space, manifest, form)
        return job_facts(queue_pictures(self._space, shots, kind="batch"))

    def history(self, limit: int = 60, before: str | None = None) -> list[JsonObject]:
        """List the pictures made, the latest first.

        Parameters:
            limit: how many
            before: an id; only older pictures
        """
        found = list_pictures(self._space, limit=max(1, min(limit, 1000)), before=before)
        return [{"id": one.id, "made": one.created} for one in found]

    def picture(self, id: str) -> FileData:
        """Return a picture of the history.

        Parameters:
            id: as /history returns it
        """
        return file_data(get_picture(self._space, id).path)

    def recipe_of(self, id: str) -> JsonObject:
        """Return a picture's recipe.

        Parameters:
            id: as /history returns it
        """
        return without_paths(read_recipe(get_picture(self._space, id).path))

    def delete_picture(self, id: str) -> str:
        """Move a picture to the trash; returns the id that /undo_delete takes.

        Parameters:
            id: as /history returns it
        """
        return delete_picture(self._space, id)


def _answer(space: Workspace, job: Job, *, wait: bool) -> tuple[JsonObject, list[FileData]]:
    """The job and its pictures, if they are waited for. Raises BadInput where the job failed."""
    if not wait:
        return job_facts(job), []
    job = wait_for_job(space, job.id)
    if job.state == "failed":
        raise BadInput(": ".join(filter(None, (job.error, job.advice))))
    return job_facts(job), job_pictures(space, job)


def _adapter(space: Workspace, text: str) -> tuple[str, float]:
    """`robot:0.8` as the adapter's file and 0.8."""
    name, strength = split_strength(text)
    return adapter_path(space, name), strength


def _start_picture(space: Workspace, picture: FileData) -> str:
    """Keep a picture to start from: the recipes of the pictures made from it name the file."""
    file = uploaded_file(space, picture)
    return str(add_upload(space, create_set(space, "start pictures").name, file).path)
