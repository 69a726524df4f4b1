"""Endpoints for pictures: make, list, return and delete them."""

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
from studio.requests.shot import RANDOM_SEED, Shot, any_seed
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

MOST_PICTURES = 1000  # in one call


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
        """Make pictures. Returns the job and, with `wait`, the pictures.

        The job's notes say which settings a speed adapter has chosen where none were given.

        Parameters:
            prompt: what to draw; may name adapters of the library as <lora:NAME:STRENGTH>
            adapters: NAME, NAME:STRENGTH or NAME:HALF:STRENGTH of each adapter
            method: merge, switch, composite, klora, cmlora or regions
            method_options: such as {"order": "random"}
            negative: negative prompt
            base: a source that /list_bases returns
            seed: seed of the first picture, or -1 for any; each further picture has the next seed
            count: how many pictures
            width: in pixels; the base's own if not given
            height: in pixels; the base's own if not given
            steps: denoising steps; 25, or what a speed adapter was made for, if not given
            guidance: CFG scale, fastest at 1 or less; 5, or a speed adapter's own, if not given
            scheduler: the sampler, such as euler_a or dpmpp_2m; the base's own if not given
            init_image: a picture to start from, as handle_file("sketch.png")
            denoise: how much of the schedule is run over a picture to start from
            wait: whether to wait for the pictures; if not, ask /pictures_of once the job is done
            spacing: how steps are spaced, such as trailing or karras; the base's own if not given
            clip_skip: layer of the text encoders to use, counted from the end; 1 is the last
            syntax: how prompts are read: a1111, plain or cut
            mask: a picture; init_image is redrawn only where this is white
            second_pass: factor, such as 2, by which to enlarge the picture before drawing on
            second_denoise: how much of the schedule the second pass runs
            regions: parts of the picture, such as "0,0,0.5,1: a red robot", for method regions
            avoid: words for things not to show; each is avoided by itself
            avoid_by: perp-neg (acts on the guidance) or decor (acts on the prompt's embedding)
            avoid_strength: how strongly to avoid them; at most 1 for decor
        """
        _check_request(self._space, base, count)
        shot = Shot(prompt, base, negative, width=width, height=height, scheduler=scheduler)
        sampling = {"steps": steps, "guidance": guidance}
        sampling = {name: value for name, value in sampling.items() if value is not None}
        shot = replace(shot, spacing=spacing, denoise=denoise, **sampling)
        shot = replace(shot, second_pass=second_pass, second_denoise=second_denoise, syntax=syntax)
        shot = _mixed(self._space, shot, adapters or (), method, method_options or {})
        start, start_mask = (_keep_picture(self._space, file) for file in (init_image, mask))
        shot = replace(shot, init_image=start, mask=start_mask, clip_skip=clip_skip)
        shot = replace(shot, regions=tuple(regions or ()), avoid=tuple(avoid or ()))
        shot = replace(shot, avoid_by=avoid_by, avoid_strength=avoid_strength)
        shot, speed_note = settled(self._space, shot)
        first = any_seed() if seed == RANDOM_SEED else seed
        shots = [replace(shot, seed=first + number) for number in range(count)]
        answer, pictures = _answer(self._space, queue_pictures(self._space, shots), wait=wait)
        notes = [note for note in (speed_note, negative_note(shot)) if note]
        return answer | {"notes": notes}, pictures

    def batch(self, manifest: str, form: str = "toml") -> JsonObject:
        """Queue the pictures of a manifest; returns the job.

        The job's results are in the manifest's order. Where a picture fails, its result is "", the
        other pictures are still made, and the job ends as failed with an error that names each
        failed picture.

        Parameters:
            manifest: the manifest's text; it calls adapters by their names in the library
            form: the manifest's format: toml, jsonl or csv
        """
        shots = shots_of(self._space, manifest, form)
        return job_facts(queue_pictures(self._space, shots, kind="batch"))

    def history(self, limit: int = 60, before: str | None = None) -> list[JsonObject]:
        """List the pictures made, the latest first.

        Parameters:
            limit: the most pictures to list, up to 1000
            before: a picture's id; only older pictures are listed
        """
        pictures = list_pictures(self._space, limit=max(1, min(limit, 1000)), before=before)
        return [{"id": picture.id, "made": picture.created} for picture in pictures]

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
    """The job and, with `wait`, its pictures. Raises BadInput where a job fails meanwhile."""
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
    """The shot with this method, these adapters and those that its prompts name."""
    mix = tuple(_adapter(space, adapter) for adapter in adapters)
    shot = take_adapter_tags(replace(shot, adapters=mix), partial(adapter_path, space))
    chosen = compose.method_named(method, options)
    return replace(shot, method=chosen) if shot.adapters or method == "regions" else shot


def _adapter(space: Workspace, text: str) -> tuple[str, float]:
    """`robot:0.8` as the path of the adapter's file and 0.8."""
    name, strength = split_strength(text)
    return adapter_path(space, name), strength


def _keep_picture(space: Workspace, picture: FileData | None) -> str | None:
    """Keep an uploaded start picture or mask for good, as recipes name its file."""
    if picture is None:
        return None
    return str(keep_start_picture(space, uploaded_file(space, picture)))
