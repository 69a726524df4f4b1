"""What programs do with trainings and pictures."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from gradio.data_classes import FileData

import compose
import trainers
from studio.errors import BadInput
from studio.requests.shot import Shot, read_recipe
from studio.workspace import (
    Workspace,
    adapter_path,
    add_upload,
    create_set,
    delete_picture,
    get_picture,
    list_pictures,
    write_caption,
)
from ui.shared.names import file_and_strength
from ui.shared.queue_requests import queue_pictures, queue_training
from ui.web.batch.library_names import shots_of
from ui.web.server.api_calls import (
    Facts,
    check_base,
    job_facts,
    pictures_in,
    sent,
    unlinked,
    uploaded,
    waited,
)

__all__ = ["picture_calls", "training_calls"]


def training_calls(space: Workspace) -> list[Callable]:
    """They queue trainings."""

    def train(
        trigger: str,
        pictures: list[FileData],
        captions: list[str] | None = None,
        kind: str = "lora",
        base: str = "sketch",
        options: Facts | None = None,
        recipe: Facts | None = None,
        name: str = "",
    ) -> Facts:
        """Queue a training; its adapter joins the library. Answers with the job.

        Parameters:
            trigger: the words that are to stand for what is learned, such as "sks robot"
            pictures: [handle_file("1.png"), handle_file("2.png")]
            captions: a text for each picture; pictures without one are called by the trigger
            kind: lora, diffusekrona, blora or sara
            base: a source that /list_bases tells
            options: of the kind, such as {"rank": 16}
            recipe: of the training, such as {"steps": 400, "lr": 0.001}
            name: of the adapter; after the trigger if not given
        """
        if len(captions or []) > len(pictures):
            raise BadInput("there are more captions than pictures")
        made = _kind(kind, options or {})
        check_base(space, base)
        files = [uploaded(space, one) for one in pictures]
        if not files:
            raise BadInput("there are no pictures to learn from")
        folder = create_set(space, name or trigger)
        for number, file in enumerate(files):
            kept = add_upload(space, folder.name, file)
            text = (captions or [])[number : number + 1]
            write_caption(space, folder.name, kept.name, *text or [""])
        job = queue_training(
            space, made, folder.path, trigger=trigger, base=base, recipe=recipe, name=name
        )
        return job_facts(job)

    return [train]


def picture_calls(space: Workspace) -> list[Callable]:
    """They draw, and look at what was drawn."""

    def generate(
        prompt: str,
        adapters: list[str] | None = None,
        method: str = "merge",
        method_options: Facts | None = None,
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
    ) -> tuple[Facts, list[FileData]]:
        """Draw pictures. Answers with the job and, where it was waited for, the pictures.

        Parameters:
            prompt: what to draw, with the adapters' trigger words
            adapters: NAME, NAME:STRENGTH or NAME:HALF:STRENGTH of each that is mixed
            method: merge, switch, composite, klora or cmlora
            method_options: such as {"order": "random"}
            negative: what the picture is not to show
            base: a source that /list_bases tells
            seed: of the first picture; the next has the next
            count: how many pictures
            width: pixels; the base's own if not given
            height: pixels; the base's own if not given
            steps: denoising steps
            guidance: how strictly the prompt is followed; 1 or less is fastest
            scheduler: euler, ddim, dpmpp_2m or unipc; the base's own if not given
            init_image: a picture to start from, as handle_file("sketch.png")
            denoise: how much of the schedule is run over a picture to start from
            wait: for the pictures; otherwise /pictures_of gives them when the job is done
        """
        if not 1 <= count <= 1000:
            raise BadInput(f"count: {count} is not from 1 to 1000")
        check_base(space, base)
        mix = [_mixed(space, one) for one in adapters or []]
        start = init_image and _start(space, uploaded(space, init_image))
        shot = Shot(
            prompt=prompt,
            base=base,
            negative=negative,
            seed=seed,
            width=width,
            height=height,
            steps=steps,
            guidance=guidance,
            scheduler=scheduler,
            adapters=tuple(mix),
            method=compose.method_named(method, method_options or {}) if mix else None,
            init_image=start,
            denoise=denoise,
        )
        job = queue_pictures(
            space, [dataclasses.replace(shot, seed=seed + number) for number in range(count)]
        )
        if not wait:
            return job_facts(job), []
        job = waited(space, job.id)
        return job_facts(job), pictures_in(space, job)

    def batch(manifest: str, form: str = "toml") -> Facts:
        """Queue the pictures of a manifest; answers with the job.

        Its results are in the manifest's order, "" standing for a picture that could not be drawn:
        the job has failed then, its error naming each, and the others are made.

        Parameters:
            manifest: its text; adapters are called as in the library
            form: toml, jsonl or csv
        """
        return job_facts(queue_pictures(space, shots_of(space, manifest, form), kind="batch"))

    def history(limit: int = 60, before: str | None = None) -> list[Facts]:
        """The pictures made, the latest first.

        Parameters:
            limit: how many
            before: an id; only what is older
        """
        found = list_pictures(space, limit=max(1, min(limit, 1000)), before=before)
        return [{"id": one.id, "made": one.created} for one in found]

    def picture(id: str) -> FileData:
        """A picture of the history.

        Parameters:
            id: as /history tells
        """
        return sent(get_picture(space, id).path)

    def recipe_of(id: str) -> Facts:
        """All that a picture was made of.

        Parameters:
            id: as /history tells
        """
        return unlinked(read_recipe(get_picture(space, id).path))

    def delete_picture_(id: str) -> str:
        """Move a picture to the trash; answers with what /undo_delete takes.

        Parameters:
            id: as /history tells
        """
        return delete_picture(space, id)

    delete_picture_.__name__ = "delete_picture"
    return [generate, batch, history, picture, recipe_of, delete_picture_]


def _kind(name: str, options: Mapping[str, object]) -> trainers.Kind:
    known = trainers.kinds()
    if name not in known:
        raise BadInput(f"there is no kind {name}: choose from {', '.join(known)}")
    fields = [field.name for field in dataclasses.fields(known[name])]  # pyright: ignore
    for option in options:
        if option not in fields:
            raise BadInput(f"{name} has no option {option}: there are {', '.join(fields)}")
    return known[name](**options)


def _mixed(space: Workspace, text: str) -> tuple[str, float]:
    """`robot:0.8` as the adapter's file and 0.8."""
    name, strength = file_and_strength(text)
    return adapter_path(space, name), strength


def _start(space: Workspace, file: Path) -> str:
    """Keep a picture to start from, since what is drawn over it names it."""
    return str(add_upload(space, create_set(space, "start pictures").name, file).path)
