"""`studio generate`: pictures from a prompt, or from a picture made before."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

import compose
from studio.adapters.blora_blocks import split_half
from studio.adapters.describe import describe
from studio.errors import BadInput
from studio.files import check_writable
from studio.picture.formats import ENDINGS
from studio.requests.adapter_tags import find_adapter, take_adapter_tags
from studio.requests.picture_file import open_picture, read_recipe, save_picture
from studio.requests.prompt_syntax import escape
from studio.requests.resolved_shot import ResolvedShot, resolve
from studio.requests.shot import RANDOM_SEED, Shot, any_seed, method_name
from studio.requests.speed import negative_note, with_speed
from ui.cli.options import (
    LOADING,
    METHODS,
    AdapterFiles,
    AsJson,
    MethodName,
    OptionalBase,
    parse_adapters,
    parse_method,
)
from ui.shared.clip_skip import trained_otherwise
from ui.shared.form import Form, with_options
from ui.shared.loading import open_base
from ui.shared.names import slug
from ui.shared.terminal import print_json, print_note, print_table, progress_bars
from ui.shared.tiles import tiles_note_of

if TYPE_CHECKING:
    from torch import Tensor

    from studio.adapters.adapter import Adapter
    from studio.bases.base import Base

# These fields of a shot have options of their own.
OWN_OPTIONS = frozenset({"prompt", "base", "adapters", "method", "init_image", "mask"})
PICTURE = Form(of=Shot, title="Picture", without=OWN_OPTIONS)

app = typer.Typer()


@dataclass(frozen=True)
class Request:
    """The pictures to make. fields: the given fields of Shot, by name."""

    fields: Mapping[str, Any]
    loading: Mapping[str, object]
    like: Path | None
    count: int
    out: Path


@app.command(
    epilog='Example: studio generate "a sks robot on the moon" --adapter robot.safetensors:0.8'
)
@with_options({"shot": PICTURE, "options": METHODS, "loading": LOADING})
def generate(
    prompt: Annotated[str | None, typer.Argument(help="What the picture shows.")] = None,
    *,
    like: Annotated[
        Path | None,
        typer.Option(help="Draw this picture again; other options change it."),
    ] = None,
    adapter: AdapterFiles = None,
    method: MethodName = None,
    count: Annotated[
        int, typer.Option(min=1, help="Number of pictures. The seed rises by one each time.")
    ] = 1,
    out: Annotated[Path, typer.Option(help="Folder, or the .png file of a single picture.")] = Path(
        "outputs"
    ),
    base: OptionalBase = None,
    init_image: Annotated[
        Path | None, typer.Option(help="Start from this picture; see --denoise.")
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="A mask: the init image is drawn anew only where this is white."),
    ] = None,
    as_json: AsJson = False,
    shot: Mapping[str, object],
    options: Mapping[str, Mapping[str, object]],
    loading: Mapping[str, object],
) -> None:
    """Make pictures. Each carries the recipe to make it again."""
    given = {
        "prompt": prompt,
        "base": base,
        "adapters": parse_adapters(adapter) or None,
        "method": parse_method(method, options),
        "init_image": init_image,
        "mask": mask,
    }
    fields = dict(shot) | {name: value for name, value in given.items() if value is not None}
    if shot.get("seed") == RANDOM_SEED:
        fields["seed"] = any_seed()
    request = Request(fields=fields, loading=loading, like=like, count=count, out=out)
    rows = make_pictures(request)
    if as_json:
        print_json(rows)
    else:
        print_table(("picture", "seed", "seconds"), [tuple(row.values()) for row in rows])


def make_pictures(request: Request) -> list[dict[str, object]]:
    """Make the pictures and write them; returns path, seed and seconds of each.

    With `like`, the shot of that picture is drawn with the given fields changed, on a base opened
    in the same way as for that picture.
    """
    recipe = dict(read_recipe(request.like)) if request.like else None
    _check(request)
    base, shot = _new_shot(request) if recipe is None else _shot_like(request, recipe)
    replace(shot, seed=shot.seed + request.count - 1).check()
    resolved = resolve(shot, base)
    _warn_of_cut_prompts(shot, base)
    _warn_of_missing_layers(resolved, base)
    if note := negative_note(shot):
        print_note(note)
    _hint_at_clip_skip(resolved, base)
    if time := compose.time_note(base, resolved):
        print_note(f"A picture will take {time}")
    rows: list[dict[str, object]] = []
    with progress_bars() as progress:
        task = progress.add_task("Drawing", total=None)
        for number in range(request.count):
            title = f"Picture {number + 1} of {request.count}"
            progress.reset(task, description=title, total=None)
            start, one = perf_counter(), resolved.with_seed(shot.seed + number)
            for event in compose.denoise(base, one):
                if isinstance(event, compose.Step):
                    progress.update(task, total=event.steps, completed=event.step)
                    continue
                path = _write_picture(one, base, event.latents, request.out)
                seconds = round(perf_counter() - start, 2)
                rows.append({"path": str(path), "seed": one.shot.seed, "seconds": seconds})
    return rows


def _write_picture(shot: ResolvedShot, base: "Base", latents: "Tensor", out: Path) -> Path:
    """Decode a picture and write it. Its name is chosen last, as others may write into `out`."""
    picture = compose.decode(base, shot, latents)
    path = save_picture(picture, _place(out, shot.shot))
    if note := tiles_note_of(picture):
        print_note(f"{path} was {note}")
    return path


def _warn_of_missing_layers(shot: ResolvedShot, base: "Base") -> None:
    from studio.adapters.compatibility import check_fits

    for adapter, _ in shot.adapters:
        covered = check_fits(adapter, base)
        if covered.missing:
            print_note(f"{adapter.name or adapter.path}: {covered.sentence}; the rest is left out")


def _hint_at_clip_skip(shot: ResolvedShot, base: "Base") -> None:
    """Print which adapters were trained with another clip skip."""
    named = ((str(adapter.name or adapter.path), adapter) for adapter, _ in shot.adapters)
    for name, trained in trained_otherwise(named, shot.shot.clip_skip, family=base.family):
        print_note(
            f"{name} was trained with clip skip {trained}: --clip-skip {trained} draws with that"
        )


def _warn_of_cut_prompts(shot: Shot, base: "Base") -> None:
    if shot.syntax == "cut" and (left_out := base.cut_tokens([shot.prompt, shot.negative])):
        print_note(
            f"The last {left_out} tokens of the prompt are left out, as in the syntax cut: give "
            "--syntax plain or a1111 to have them read"
        )


def _new_shot(request: Request) -> "tuple[Base, Shot]":
    shot = Shot(**request.fields)  # pyright: ignore[reportArgumentType]
    shot.check()
    shot = take_adapter_tags(shot, find_adapter)
    _check_files(shot.adapters)
    shot = _sampled_for_speed(shot, request.fields)
    return open_base(shot.base, request.loading), shot


def _sampled_for_speed(shot: Shot, given: Collection[str]) -> Shot:
    """The shot with the settings of its speed adapter, if it has one; prints what is changed."""
    shot, note = with_speed(shot, given)
    if note:
        print_note(note)
    shot.check()
    return shot


def _shot_like(request: Request, recipe: dict[str, object]) -> "tuple[Base, Shot]":
    """The base and the shot of an earlier picture's recipe, with the given fields changed."""
    entry = recipe.get("base")
    parts = ("source", "dtype", "device")
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in parts):
        raise BadInput(f"The recipe in {request.like} is damaged: its base is {entry!r}.")
    given = request.fields
    opening = {
        key: entry[key]
        for key in ("dtype", "quantize", "device", "prediction", "vae", "vae_tiling")
        if key in entry
    }
    if "base" not in given:
        from studio.bases.resolve import refuse_download  # this imports the hub's client

        refuse_download(entry["source"], f"The recipe in {request.like}")
    base = open_base(str(given.get("base", entry["source"])), opening | dict(request.loading))
    if "base" in given:
        recipe["base"] = entry | {"fingerprint": base.fingerprint()}
    if "adapters" in given:
        recipe["adapters"] = []
    recipe |= {name: None for name in ("init_image", "mask") if name in given}
    shot = compose.like(recipe, base)
    if given.keys() & {"prompt", "negative"} and "syntax" not in given:
        shot = _as_written_today(shot)
    shot = replace(shot, **given)  # pyright: ignore[reportArgumentType]
    if shot.regions and "regions" not in given and method_name(shot.method) != "regions":
        print_note("The regions of that picture are left out, as this method has none")
        shot = replace(shot, regions=())
    shot.check()
    shot = take_adapter_tags(shot, find_adapter)
    return base, _sampled_for_speed(shot, given) if "adapters" in given else shot


def _as_written_today(shot: Shot) -> Shot:
    """The same prompts in the syntax a1111, as newly typed prompts may contain weights."""
    if shot.syntax == "a1111":
        return shot
    prompt, negative = escape(shot.prompt), escape(shot.negative)
    return replace(shot, prompt=prompt, negative=negative, syntax="a1111")


def _check(request: Request) -> None:
    """Raise BadInput for mistakes that show without a base, before the long work of opening it."""
    if not request.like and "prompt" not in request.fields:
        raise BadInput("A prompt is missing: say what the picture shows, or give --like.")
    _check_files(request.fields.get("adapters") or ())
    for name in ("init_image", "mask"):
        if isinstance(picture := request.fields.get(name), Path):
            open_picture(picture)
    _check_out(request.out, request.count)


def _check_files(adapters: "Sequence[tuple[Adapter | str | Path, float]]") -> None:
    for adapter, _ in adapters:
        describe(split_half(str(adapter))[0])


def _check_out(out: Path, count: int) -> None:
    is_file = out.suffix.lower() == ".png"
    if out.suffix.lower() in ENDINGS and not is_file and not out.is_dir():
        raise BadInput(f"{out}: pictures are written as PNG: give a name that ends in .png.")
    if is_file and count > 1:
        raise BadInput(f"{out} is one picture, but --count is {count}: give a folder.")
    folder = out.parent if is_file else out
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise BadInput(f"{place} is a file: give --out a folder, or a name that ends in .png.")
    check_writable(out if is_file else out / "picture.png")


def _place(out: Path, shot: Shot) -> Path:
    """The picture's file, named by prompt and seed; a number is added where it exists."""
    if out.suffix.lower() == ".png":
        return out
    stem = f"{slug(shot.prompt) or 'picture'}-{shot.seed}"
    path, number = out / f"{stem}.png", 1
    while path.exists():
        number += 1
        path = out / f"{stem}-{number}.png"
    return path
