"""The demonstration: a subject and a style are learned, mixed, and drawn on one contact sheet."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from PIL import Image

import compose
import trainers
from studio.adapters.adapter import Adapter, load_adapter
from studio.assets import asset
from studio.bases.base import Base
from studio.errors import BadInput
from studio.files import atomic_write
from studio.requests.shot import Shot
from ui.cli.train import draw_with, follow
from ui.shared.labelled_sheet import Group, Row, draw_sheet
from ui.shared.loading import open_base
from ui.shared.terminal import bars, print_facts, print_json

__all__ = ["run_demo"]

PROMPTS = (
    "a red sks robot in the snowy mountains, ink style",
    "a blue sks robot on the beach, ink style",
    "a green sks robot in a meadow, ink style",
    "a yellow sks robot in the city at night, ink style",
)
SEED = 7
TOGETHER = 0.8  # the strength of each of two adapters that change the same layers


@dataclass(frozen=True)
class Lesson:
    """An adapter to train on one of the example folders."""

    title: str
    folder: str
    trigger: str
    kind: trainers.Kind

    @property
    def pictures(self) -> Path:
        return asset(f"examples/{self.folder}")


# A base this small has little attention: what is drawn, and how, is in its convolutions too.
SUBJECT = Lesson("Subject", "robot", "sks robot", trainers.LoRA())
STYLE = Lesson("Style", "ink", "ink style", trainers.LoRA())


def run_demo(*, base: str, out: Path, loading: Mapping[str, object], as_json: bool) -> None:
    """Train both lessons on the base, mix them by every method, and draw the sheet into `out`.

    Raises BadInput when the example pictures are not there.
    """
    for lesson in (SUBJECT, STYLE):
        if not lesson.pictures.is_dir():
            raise BadInput(
                f"The example pictures {lesson.pictures} are not there: "
                "`python -m studio.sketch.examples` draws them."
            )
    begun = perf_counter()
    opened = open_base(base, loading)
    subject, subject_note = _learn(SUBJECT, opened, out)
    style, style_note = _learn(STYLE, opened, out)
    shot = Shot(prompt="", base=base)
    columns = {
        "no adapter": shot,
        "subject": replace(shot, adapters=((subject, 1.0),)),
        "style": replace(shot, adapters=((style, 1.0),)),
    }
    for name in compose.methods():
        method = compose.method_named(name, {})
        both = ((subject, TOGETHER), (style, TOGETHER))
        columns[f"both\n{name}"] = replace(shot, adapters=both, method=method)
    sheet = draw_sheet(
        "A subject and a style, learned and mixed",
        note=f"base {opened.name}  ·  {shot.steps} steps, guidance {shot.guidance:g}  ·  "
        f"each row one prompt and one seed  ·  both: each at {TOGETHER:g}",
        columns=tuple(columns),
        rows=_draw_rows(opened, tuple(columns.values())),
        groups=(_group(SUBJECT, subject_note), _group(STYLE, style_note)),
    )
    path = out / "sheet.png"
    with atomic_write(path) as part:
        sheet.save(part, "PNG")
    facts = {
        "sheet": str(path),
        "subject": str(subject.path),
        "style": str(style.path),
        "seconds": round(perf_counter() - begun),
    }
    if as_json:
        print_json(facts)
    else:
        print_facts("Demo", facts)


def _learn(lesson: Lesson, base: Base, out: Path) -> tuple[Adapter, str]:
    """The lesson's adapter, and a line on how it was trained."""
    with tempfile.TemporaryDirectory() as folder:
        progress = trainers.train(
            lesson.kind,
            base,
            lesson.pictures,
            trigger=lesson.trigger,
            out=out / f"{lesson.folder}.safetensors",
            run=Path(folder) / "run",
            save_every=0,
            draw=draw_with(base),
        )
        trained = follow(progress, said=f"Learning {lesson.trigger}")
    finished = trained.finished
    note = f"{trained.started.examples} pictures, {finished.steps} steps, {finished.seconds:.0f} s"
    return load_adapter(finished.path), note


def _draw_rows(base: Base, shots: Sequence[Shot]) -> list[Row]:
    """Every prompt with the mix of every shot."""
    rows = []
    with bars() as shown:
        task = shown.add_task("Drawing", total=len(PROMPTS) * len(shots))
        for number, prompt in enumerate(PROMPTS):
            pictures = []
            for shot in shots:
                one = replace(shot, prompt=prompt, seed=SEED + number)
                pictures.append(compose.render(base, one))
                shown.advance(task)
            rows.append(Row(prompt, pictures))
    return rows


def _group(lesson: Lesson, note: str) -> Group:
    paths = sorted(lesson.pictures.glob("*.png"))
    pictures = [Image.open(path) for path in paths]
    return Group(f"{lesson.title}: {lesson.trigger}", note, pictures)
