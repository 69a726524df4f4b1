"""Does a B-LoRA take content and style apart? ``python -m tests.benchmarks.halves``

One picture of a subject and a style that the base has never seen trains a B-LoRA, as `studio train
blora --style-alone` does, under a caption that says all but these two: the trigger stands for the
subject, and before a known style that is next to the picture's for the style. The content half is
asked for the subject in styles that the base knows, the style half for other subjects in the
learned style; the judge says whether subject and style are right.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

import compose
import studio
import trainers
from studio.adapters.blora_blocks import select_half
from studio.sketch import captions, judge
from studio.sketch import scenes as world
from studio.sketch.draw import draw as draw_scene

TRIGGER = "sks"
NEAREST = {
    "neon": "chalk drawing",
    "ink drawing": "line drawing",
    "halftone": "cartoon",
    "stained glass": "cartoon",
}
PAIRS = ("ghost,halftone", "octopus,stained glass", "dragon,stained glass", "ghost,neon")
OPTIONS = {"style_alone": 0.6}
RECIPE = {"steps": 1000, "batch": 6, "flip": True, "save_every": 0}
FACTORS = ("subject", "style", "place")


def main() -> None:
    """Print a table of these pairs, or of those named, and keep a contact sheet."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.halves", description=__doc__)
    parser.add_argument("--pairs", nargs="*", default=PAIRS, help="SUBJECT,STYLE, both held out")
    parser.add_argument("--pictures", type=int, default=48, help="judged of each half")
    parser.add_argument("--content", type=float, default=0.85, help="the content half's strength")
    parser.add_argument("--style", type=float, default=0.75, help="the style half's strength")
    parser.add_argument("--guidance", type=float, default=6.0)
    parser.add_argument("--options", type=json.loads, default={}, help="of the kind, as JSON")
    parser.add_argument("--recipe", type=json.loads, default={}, help="options of the loop")
    parser.add_argument("--sheet", type=Path, help="keep pictures of both halves on one PNG")
    asked = parser.parse_args()
    base = studio.load_base("sketch", device="cpu")
    table = Table("learned", "used", "subject", "style", "place", "subject and style")
    rows: list[list[Image.Image]] = []
    for subject, style in (pair.split(",") for pair in asked.pairs):
        with tempfile.TemporaryDirectory() as folder:
            picture, adapter = learn(base, subject, style, Path(folder), asked)
        for half in ("content", "style"):
            scenes = scenes_for(half, subject, style, asked.pictures)
            made = draw(base, select_half(adapter, half), scenes, half, style, asked)
            shares = measured(made, scenes)
            shown = (f"{shares[name]:.0%}" for name in (*FACTORS, "both"))
            table.add_row(f"{subject}, {style}", f"{half} half", *shown)
            rows.append([picture, *made[:7]])
    Console().print(table)
    if asked.sheet:
        save_sheet(asked.sheet, rows)


def learn(
    base: studio.Base, subject: str, style: str, folder: Path, asked: argparse.Namespace
) -> tuple[Image.Image, studio.Adapter]:
    """The one picture, and the B-LoRA trained on it."""
    rng = np.random.default_rng([22, world.SUBJECTS.index(subject)])
    scene = world.sample(rng, subjects=(subject,), styles=(style,), places=("meadow",), bare=True)
    picture = draw_scene(scene)
    (folder / "pictures").mkdir()
    picture.save(folder / "pictures" / "one.png")
    caption = captions.plain(scene, subject=TRIGGER, style=f"{TRIGGER} {NEAREST[style]}")
    (folder / "pictures" / "one.txt").write_text(caption, encoding="utf-8")
    out = folder / "adapter.safetensors"
    for _ in trainers.train(
        trainers.BLoRA(**OPTIONS | asked.options),
        base,
        folder / "pictures",
        trigger=TRIGGER,
        out=out,
        run=folder / "run",
        **RECIPE | asked.recipe,
    ):
        pass
    return picture, studio.load_adapter(out)


def scenes_for(half: str, subject: str, style: str, count: int) -> list[world.Scene]:
    """What prompts for a half ask for: the subject in known styles, or the style of known ones."""
    rng = np.random.default_rng([23, half == "content"])
    choice = {"subjects": (subject,)} if half == "content" else {"styles": (style,)}
    return [world.sample(rng, bare=True, **choice) for _ in range(count)]


def draw(
    base: studio.Base,
    adapter: studio.Adapter,
    scenes: Sequence[world.Scene],
    half: str,
    style: str,
    asked: argparse.Namespace,
) -> list[Image.Image]:
    known = {"style": f"{TRIGGER} {NEAREST[style]}"}
    words = {"subject": TRIGGER} if half == "content" else known
    shots = [
        studio.Shot(
            captions.plain(scene, **words),
            adapters=((adapter, getattr(asked, half)),),
            seed=number,
            steps=25,
            guidance=asked.guidance,
        )
        for number, scene in enumerate(scenes)
    ]
    made = sorted(compose.render_many(base, shots), key=lambda one: one.number)
    return [one.picture for one in made if isinstance(one, compose.Made)]


def measured(pictures: Sequence[Image.Image], scenes: Sequence[world.Scene]) -> Mapping[str, float]:
    """Shares right by factor, and of those with subject and style right."""
    right = judge.share_right(pictures, scenes)
    answers = [
        all(read[name] == judge.answers_of(scene)[name] for name in ("subject", "style"))
        for read, scene in zip(judge.read(pictures), scenes, strict=True)
    ]
    return {**right, "both": float(np.mean(answers))}


def save_sheet(path: Path, rows: Sequence[Sequence[Image.Image]]) -> None:
    """A row a half: the picture that was learned, then what the half draws."""
    sheet = Image.new("RGB", (max(map(len, rows)) * 132 + 12, len(rows) * 132), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (x * 132 + 12 * (x > 0), y * 132))
    sheet.save(path)


if __name__ == "__main__":
    main()
