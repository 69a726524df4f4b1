"""Endpoints for pictures: making them, and what was made."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from gradio.data_classes import FileData

import compose
from studio.errors import BadInput
from studio.queue.job import Job
from studio.requests.adapter_tags import take_adapter_tags
from studio.requests.picture_file import read_recipe
from studio.requests.prompt_syntax import PromptSyntax
from studio.requests.shot import Shot
from studio.requests.speed import negative_note
from studio.workspace import (
    Workspace,
    adapter_path,
    delete_picture,
    get_picture,
    keep_start_picture,
    list_pictures,
)
from ui.shared.names import split_strength
from ui.shared.queue_requests import queue_pictures, settled
from ui.web.api.values import (
    Endpoints,
    JsonObject,
    check_base,
    file_data,
    job_facts,
    job_pictures,
    uploaded_file,
    wait_for_job,
    without_paths,
)
from ui.web.batch.library_names import shots_of

MOST_PICTURES = 1000  # of one call


class PictureEndpoints(Endpoints):
    """The API's endpoints for pictures."""

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
        steps: int | None = None,
        guidance: float | None = None,
        scheduler: str | None = None,
        init_image: FileData | None = None,
        denoise: float = 0.6,
        wait: bool = True,
        spacing: str | None = None,
        clip_skip: int | None = None,
        syntax: PromptSyntax = "a1111",
        mask: FileData | None = None,
        second_pass: float | None = None,
        second_denoise: float = 0.6,
        regions: list[str] | None = None,
        avoid: list[str] | None = None,
        avoid_by: Literal["perp-neg", "decor"] = "perp-neg",
        avoid_strength: float = 1.0,
    ) -> tuple[JsonObject, list[FileData]]:
        """Make pictures. Returns the job and, if it waits for them, the pictures.

        The job's notes say what a speed adapter has set of what was not given.

        Parameters:
            prompt: what to draw; may name adapters of the library as <lora:NAME:STRENGTH>
            adapters: NAME, NAME:STRENGTH or NAME:HALF:STRENGTH of each adapter
            method: merge, switch, composite, klora, cmlora or regions
            method_options: such as {"order": "random"}
            negative: negative prompt
            base: a source that /list_bases returns
            seed: of the first picture; the next picture has the next seed
            count: how many pictures
            width: pixels; the base's own if not given
            height: pixels; the base's own if not given
            steps: denoising steps; 25 if not given, or those that a speed adapter was made for
            guidance: CFG, 1 or less is fastest; 5, or a speed adapter's, if not given
            scheduler: the sampler, such as euler_a or dpmpp_2m; the base's own if not given
            init_image: a picture to start from, as handle_file("sketch.png")
            denoise: how much of the schedule is run over a picture to start from
            wait: for the pictures; else /pictures_of returns them when the job is done
            spacing: of the steps, such as trailing or karras; the base's own if not given
            clip_skip: layer of the text encoders from the end, 1 being the last
            syntax: how prompts are read: a1111, plain or cut
            mask: a picture; init_image is drawn anew where it is white, and only there
            second_pass: such as 2, to enlarge the picture so many times and draw on
            second_denoise: how much of the schedule the second pass runs
            regions: parts of the picture, such as "0,0,0.5,1: a red robot", for method regions
            avoid: words that the picture must not show, each by itself
            avoid_by: perp-neg, by guidance, or decor, in the prompt's embedding
            avoid_strength: how strongly; of decor at most 1
        """
        _check_request(self._space, base, count)
        shot = Shot(prompt, base, negative, width=width, height=height, scheduler=scheduler)
        sampling = {"steps": steps, "guidance": guidance}
        sampling = {name: one for name, one in sampling.items() if one is not None}
        shot = replace(shot, spacing=spacing, denoise=denoise, **sampling)
        shot = replace(shot, second_pass=second_pass, second_denoise=second_denoise, syntax=syntax)
        shot = _mixed(self._space, shot, adapters or (), method, method_options or {})
        start, part = (_keep_picture(self._space, one) for one in (init_image, mask))
        shot = replace(shot, init_image=start, mask=part, clip_skip=clip_skip)
        shot = replace(shot, regions=tuple(regions or ()), avoid=tuple(avoid or ()))
        shot = replace(shot, avoid_by=avoid_by, avoid_strength=avoid_strength)
        shot, said = settled(self._space, shot)
        shots = [replace(shot, seed=seed + number) for number in range(count)]
        answer, pictures = _answer(self._space, queue_pictures(self._space, shots), wait=wait)
        notes = [note for note in (said, negative_note(shot)) if note]
        return answer | {"notes": notes}, pictures

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


def _check_request(space: Workspace, base: str, count: int) -> None:
    if not 1 <= count <= MOST_PICTURES:
        raise BadInput(f"count: {count} is not from 1 to {MOST_PICTURES}")
    check_base(space, base)


def _mixed(
    space: Workspace, shot: Shot, adapters: Sequence[str], method: str, options: JsonObject
) -> Shot:
    """The shot with these adapters and those that its prompts name."""
    mix = tuple(_adapter(space, one) for one in adapters)
    shot = take_adapter_tags(replace(shot, adapters=mix), partial(adapter_path, space))
    chosen = compose.method_named(method, options)
    return replace(shot, method=chosen) if shot.adapters or method == "regions" else shot


def _adapter(space: Workspace, text: str) -> tuple[str, float]:
    """`robot:0.8` as the adapter's file and 0.8."""
    name, strength = split_strength(text)
    return adapter_path(space, name), strength


def _keep_picture(space: Workspace, picture: FileData | None) -> str | None:
    """Keep a picture to start from, or its mask: recipes of pictures made from it name the file."""
    if picture is None:
        return None
    return str(keep_start_picture(space, uploaded_file(space, picture)))
