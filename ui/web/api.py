"""What programs call through gradio_client, described on the API page.

Everything goes by the names that the pages show: of adapters in the library, of pictures in the
history, of jobs by their numbers. Files come as gradio_client's `handle_file` sends them.
"""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

import compose
import trainers
from studio.describe import describe
from studio.errors import BadInput
from studio.jobs import (
    Job,
    get_job,
    list_jobs,
    remove_job,
    restore_job,
    resume_job,
    stop_job,
)
from studio.shot import Shot, read_recipe
from studio.workspace import (
    AdapterFile,
    Workspace,
    adapter_place,
    add_base,
    add_upload,
    delete_adapter,
    delete_picture,
    get_adapter,
    get_picture,
    list_adapters,
    list_bases,
    list_pictures,
    new_set,
    rename_adapter,
    write_caption,
)
from ui._names import file_and_strength
from ui._queue import queue_pictures, queue_training
from ui.web._download import web_folder
from ui.web._manifests import shots_of
from ui.web._page import told
from ui.web._shelve import bring_back, give, take_in

__all__ = ["offer"]

Facts = dict[str, Any]
POLL = 0.1  # seconds between two looks at a job that is waited for
ENDED = ("done", "failed", "stopped")


def offer(space: Workspace) -> None:
    """Add the calls to the page under construction."""
    for group in (_library, _training, _pictures, _jobs):
        for call in group(space):
            gr.api(told(call), api_name=call.__name__)


def _library(space: Workspace) -> list:
    def list_library(family: str = "") -> list[Facts]:
        """The adapters in the library, the latest first.

        Parameters:
            family: only what fits bases of this family: sd1, sd2 or sdxl (sketch is of sdxl's)
        """
        return [_adapter(one) for one in list_adapters(space, family=family)]

    def describe_adapter(name: str) -> Facts:
        """All that an adapter's file tells: kind, base, layers, ranks, trigger words, recipe.

        Parameters:
            name: as in the library
        """
        found = get_adapter(space, name)
        return _adapter(found) | ({} if found.problem else _unlinked(describe(found.path)))

    def import_adapter(file: FileData) -> Facts:
        """Take a .safetensors file of Studio, kohya, diffusers, peft or LyCORIS into the library.

        Parameters:
            file: handle_file("robot.safetensors")
        """
        taken, refused = take_in(space, [_uploaded(space, file)])
        if refused:
            raise BadInput(refused[0])
        return _adapter(taken[0])

    def export_adapter(name: str, to: str = "studio", half: str = "") -> FileData:
        """An adapter as a file that another program reads.

        Parameters:
            name: as in the library
            to: studio (also read by diffusers), kohya, diffusers or lycoris
            half: content or style, for that part of a B-LoRA alone
        """
        return _file(give(space, name, to=to, half=half))

    def rename_adapter_(name: str, new: str) -> Facts:
        """Call an adapter otherwise.

        Parameters:
            name: as in the library
            new: what to call it
        """
        return _adapter(rename_adapter(space, name, new))

    def delete_adapter_(name: str) -> str:
        """Move an adapter to the trash; answers with what /undo_delete takes.

        Parameters:
            name: as in the library
        """
        return delete_adapter(space, name)

    def undo_delete(id: str) -> str:
        """Bring back an adapter or a picture from the trash; answers with its name.

        Parameters:
            id: what deleting it answered
        """
        return bring_back(space, id).stem

    def list_bases_() -> list[Facts]:
        """The bases to choose from, by source."""
        return [dataclasses.asdict(one) for one in list_bases(space)]

    def add_base_(source: str) -> Facts:
        """Add a base to choose from.

        Parameters:
            source: a Hugging Face id, or a folder or file on the machine that Studio runs on
        """
        return dataclasses.asdict(add_base(space, source))

    calls = (rename_adapter_, delete_adapter_, list_bases_, add_base_)
    for call in calls:
        call.__name__ = call.__name__.rstrip("_")
    found = [list_library, describe_adapter, import_adapter, export_adapter, undo_delete]
    return [*found, *calls]


def _training(space: Workspace) -> list:
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
        _known_base(space, base)
        files = [_uploaded(space, one) for one in pictures]
        if not files:
            raise BadInput("there are no pictures to learn from")
        folder = new_set(space, name or trigger)
        for number, file in enumerate(files):
            kept = add_upload(space, folder.name, file)
            text = (captions or [])[number : number + 1]
            write_caption(space, folder.name, kept.name, *text or [""])
        job = queue_training(
            space, made, folder.path, trigger=trigger, base=base, recipe=recipe, name=name
        )
        return _job(job)

    return [train]


def _pictures(space: Workspace) -> list:
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
        _known_base(space, base)
        mix = [_mixed(space, one) for one in adapters or []]
        start = init_image and _start(space, _uploaded(space, init_image))
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
            return _job(job), []
        job = _waited(space, job.id)
        return _job(job), _results(space, job)

    def batch(manifest: str, form: str = "toml") -> Facts:
        """Queue the pictures of a manifest; answers with the job.

        Parameters:
            manifest: its text; adapters are called as in the library
            form: toml, jsonl or csv
        """
        return _job(queue_pictures(space, shots_of(space, manifest, form), kind="batch"))

    def history(limit: int = 60, before: str | None = None) -> list[Facts]:
        """The pictures made, the latest first.

        Parameters:
            limit: how many
            before: an id; only what is older
        """
        found = list_pictures(space, limit=max(1, min(limit, 1000)), before=before)
        return [{"id": one.id, "made": one.made} for one in found]

    def picture(id: str) -> FileData:
        """A picture of the history.

        Parameters:
            id: as /history tells
        """
        return _file(get_picture(space, id).path)

    def recipe_of(id: str) -> Facts:
        """All that a picture was made of.

        Parameters:
            id: as /history tells
        """
        return _unlinked(read_recipe(get_picture(space, id).path))

    def delete_picture_(id: str) -> str:
        """Move a picture to the trash; answers with what /undo_delete takes.

        Parameters:
            id: as /history tells
        """
        return delete_picture(space, id)

    delete_picture_.__name__ = "delete_picture"
    return [generate, batch, history, picture, recipe_of, delete_picture_]


def _jobs(space: Workspace) -> list:
    def jobs(state: str = "", limit: int = 100) -> list[Facts]:
        """Trainings and pictures that wait, run or have ended, the latest first.

        Parameters:
            state: only those queued, running, done, failed or stopped
            limit: how many
        """
        states: Any = (state,) if state else ()
        return [_job(one) for one in list_jobs(space, states=states, limit=max(1, limit))]

    def job(id: int) -> Facts:
        """A job as it stands: state, step of total, loss, results, and why it failed.

        Parameters:
            id: its number
        """
        return _job(get_job(space, id))

    def wait(id: int, seconds: float = 600.0) -> Facts:
        """Answer with a job when it has ended, or after so many seconds.

        Parameters:
            id: its number
            seconds: at most an hour
        """
        return _job(_waited(space, id, seconds=min(seconds, 3600.0), failing=False))

    def pictures_of(id: int) -> list[FileData]:
        """The pictures that a job has made so far.

        Parameters:
            id: its number
        """
        return _results(space, get_job(space, id))

    def stop(id: int) -> Facts:
        """Stop a job; a training keeps its checkpoint.

        Parameters:
            id: its number
        """
        return _job(stop_job(space, id))

    def resume(id: int) -> Facts:
        """Go on with a job that was stopped or has failed.

        Parameters:
            id: its number
        """
        return _job(resume_job(space, id))

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
        return _job(restore_job(space, id))

    return [jobs, job, wait, pictures_of, stop, resume, remove, restore]


def _adapter(found: AdapterFile) -> Facts:
    facts = dataclasses.asdict(found)
    del facts["path"], facts["preview"]
    return facts | {"triggers": list(found.triggers), "halves": list(found.halves)}


def _job(job: Job) -> Facts:
    facts = dataclasses.asdict(job) | {"left": job.left, "results": list(job.results)}
    del facts["arguments"]
    return facts


def _results(space: Workspace, job: Job) -> list[FileData]:
    if job.kind == "train":
        return []
    return [_file(get_picture(space, id).path) for id in job.results]


def _waited(space: Workspace, id: int, *, seconds: float = 3600.0, failing: bool = True) -> Job:
    """A job that has ended. failing: raise BadInput with the reason where it failed."""
    until = time.monotonic() + seconds
    while (job := get_job(space, id)).state not in ENDED and time.monotonic() < until:
        time.sleep(POLL)
    if failing and job.state == "failed":
        raise BadInput(f"{job.error}{': ' if job.advice else ''}{job.advice}")
    return job


def _kind(name: str, options: Mapping[str, object]) -> trainers.Kind:
    known = trainers.kinds()
    if name not in known:
        raise BadInput(f"there is no kind {name}: choose from {', '.join(known)}")
    fields = [field.name for field in dataclasses.fields(known[name])]  # pyright: ignore
    for option in options:
        if option not in fields:
            raise BadInput(f"{name} has no option {option}: there are {', '.join(fields)}")
    return known[name](**options)


def _known_base(space: Workspace, source: str) -> None:
    if source not in {one.source for one in list_bases(space)}:
        raise BadInput(f"{source} is not among the bases: add it with /add_base first")


def _mixed(space: Workspace, text: str) -> tuple[str, float]:
    """`robot:0.8` as the adapter's file and 0.8."""
    name, strength = file_and_strength(text)
    return adapter_place(space, name), strength


def _start(space: Workspace, file: Path) -> str:
    """Keep a picture to start from, since what is drawn over it names it."""
    return str(add_upload(space, new_set(space, "start pictures").name, file).path)


def _uploaded(space: Workspace, file: FileData) -> Path:
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


def _file(path: Path) -> FileData:
    return FileData(path=str(path), orig_name=path.name)


def _unlinked(facts: Any) -> Any:
    """The same with other files called `file`: gradio_client would fetch what is called `path`."""
    if isinstance(facts, Mapping):
        return {"file" if key == "path" else key: _unlinked(one) for key, one in facts.items()}
    return [_unlinked(one) for one in facts] if isinstance(facts, list) else facts
