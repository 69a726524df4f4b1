"""`studio demo`: train a subject and a style, mix them, and draw one contact sheet."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer
from PIL import Image

import compose
import trainers
from studio.assets import asset
from studio.errors import BadInput
from studio.files import check_writable, write_file
from studio.requests.shot import Shot
from ui.cli.options import LOADING, AsJson, BaseSource
from ui.cli.training.train import follow
from ui.shared.form import with_options
from ui.shared.labelled_sheet import Group, Row, draw_sheet
from ui.shared.loading import open_base
from ui.shared.terminal import print_outcome, progress_bars
from ui.shared.training_run import draw_with

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter
    from studio.bases.base import Base

PROMPTS = (
    "a sks robot in the snowy mountains",
    "a sks robot wearing a top hat on the beach",
    "a sks robot holding a balloon in a meadow",
    "a sks robot in the city at night",
)
KNOWN_STYLE = "3d render"  # the style in prompts of columns without the style adapter
SEED, STEPS = 7, 15
SUBJECT_STRENGTH, STYLE_STRENGTH = 1.2, 0.8  # in a mix: both change the same layers

app = typer.Typer()


@dataclass(frozen=True)
class Lesson:
    """An adapter to train on one of the example folders."""

    title: str
    folder: str
    trigger: str

    @property
    def pictures(self) -> Path:
        """The folder of example pictures."""
        return asset(f"examples/{self.folder}")

    @property
    def file(self) -> str:
        """The name of its adapter's file."""
        return f"{self.folder}.safetensors"


@dataclass(frozen=True)
class Learned:
    """A trained adapter. note: a line on how it was trained."""

    adapter: "Adapter"
    note: str


SUBJECT = Lesson("Subject", "robot", "sks robot")
STYLE = Lesson("Style", "glass", "glass style")
SHEET = "sheet.png"
FILES = (SUBJECT.file, STYLE.file, SHEET)  # the files that a demo writes; the next demo replaces


@app.command(epilog="Example: studio demo --out demo")
@with_options({"loading": LOADING})
def demo(
    *,
    base: BaseSource = "sketch",
    out: Annotated[Path, typer.Option(help="Folder for the adapters and the sheet.")] = Path(
        "demo"
    ),
    as_json: AsJson = False,
    loading: Mapping[str, object],
) -> None:
    """Train a subject and a style, mix them, and draw it all on one contact sheet."""
    for lesson in (SUBJECT, STYLE):
        if not lesson.pictures.is_dir():
            raise BadInput(
                f"The example pictures {lesson.pictures} are missing: draw them with "
                "`python -m studio.sketch.examples`."
            )
    _check_out(out)
    start = perf_counter()
    opened = open_base(base, loading)
    with tempfile.TemporaryDirectory() as made:
        subject, style = (_learn(lesson, opened, Path(made)) for lesson in (SUBJECT, STYLE))
        _draw_sheet(opened, subject, style).save(Path(made) / SHEET, "PNG")
        for name in FILES:
            write_file(out / name, (Path(made) / name).read_bytes())
    facts = {
        "sheet": str(out / SHEET),
        "subject": str(out / SUBJECT.file),
        "style": str(out / STYLE.file),
        "seconds": round(perf_counter() - start),
    }
    print_outcome("Demo", facts, as_json=as_json)


def _check_out(out: Path) -> None:
    """Raise BadInput if `out` can't be written to, or holds files that no demo has written."""
    check_writable(out / SHEET)
    present = [name for name in FILES if (out / name).exists()]
    if present and len(present) < len(FILES):
        raise BadInput(
            f"{out / present[0]} already exists, and no demo made it: give another --out."
        )


def _learn(lesson: Lesson, base: "Base", out: Path) -> Learned:
    """Train the lesson's adapter and write it into `out`."""
    from studio.adapters.load import load_adapter

    with tempfile.TemporaryDirectory() as folder:
        progress = trainers.train(
            trainers.LoRA(),
            base,
            lesson.pictures,
            trigger=lesson.trigger,
            out=out / lesson.file,
            run=Path(folder) / "run",
            save_every=0,
            draw=draw_with(base),
        )
        trained = follow(progress, title=f"Learning {lesson.trigger}")
    finished = trained.finished
    note = f"{trained.started.examples} pictures, {finished.steps} steps, {finished.seconds:.0f} s"
    return Learned(load_adapter(finished.path), note)


def _draw_sheet(base: "Base", subject: Learned, style: Learned) -> Image.Image:
    """Draw every prompt without adapters, with each one, and with both by every method."""
    plain = Shot(prompt=KNOWN_STYLE, base=base.source, steps=STEPS)
    styled = replace(plain, prompt=STYLE.trigger)
    both = ((subject.adapter, SUBJECT_STRENGTH), (style.adapter, STYLE_STRENGTH))
    columns = {
        "no adapter": plain,
        "subject": replace(plain, adapters=((subject.adapter, 1.0),)),
        "style": replace(styled, adapters=((style.adapter, 1.0),)),
    }
    for name in compose.methods():
        method = compose.method_named(name, {})
        columns[f"both\n{name}"] = replace(styled, adapters=both, method=method)
    return draw_sheet(
        "A subject and a style, learned and mixed",
        note=f"base {base.name}  ·  {plain.steps} steps, guidance {plain.guidance:g}  ·  "
        f"each row one prompt and one seed  ·  both: subject at {SUBJECT_STRENGTH:g}, "
        f"style at {STYLE_STRENGTH:g}",
        columns=tuple(columns),
        rows=_draw_rows(base, tuple(columns.values())),
        groups=(_example_pictures(SUBJECT, subject), _example_pictures(STYLE, style)),
    )


def _draw_rows(base: "Base", shots: Sequence[Shot]) -> list[Row]:
    """Draw a row for each prompt: one picture for each mix, in the style that the prompt names."""
    rows = []
    with progress_bars() as progress:
        task = progress.add_task("Drawing", total=len(PROMPTS) * len(shots))
        for number, prompt in enumerate(PROMPTS):
            pictures = []
            for shot in shots:
                full_prompt = f"{prompt}, {shot.prompt}"
                one = replace(shot, prompt=full_prompt, seed=SEED + number)
                pictures.append(compose.render(base, one))
                progress.advance(task)
            rows.append(Row(prompt, pictures))
    return rows


def _example_pictures(lesson: Lesson, learned: Learned) -> Group:
    pictures = [Image.open(path) for path in sorted(lesson.pictures.glob("*.png"))]
    return Group(f"{lesson.title}: {lesson.trigger}", learned.note, pictures)
