"""Does a LoRA teach sketch a subject of its own? ``python -m tests.benchmarks.subject``

Five drawn pictures of an instance (a robot that is pink with teal stripes) or of a class that the
base has never seen (an octopus) train a LoRA as `studio train lora` does. 50 pictures of unseen
prompts (other places and styles) are judged, beside the same prompts and seeds without the adapter.
An instance is right where its subject, colour, pattern and the pattern's colour are.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

import compose
import studio
import trainers
from studio.sketch import captions, examples, judge
from studio.sketch import scenes as world
from tests.benchmarks.elements import sheet_of_rows

FACTORS = ("instance", "subject", "colour", "pattern", "place", "style")


def paint_of(subject: str) -> world.Paint:
    """A robot has a paint of its own; a class that the base has never seen has its own colours."""
    is_known = subject in world.TRAINED_SUBJECTS
    return examples.ROBOT if is_known else world.Paint()


def unseen_scenes(subject: str, count: int) -> list[world.Scene]:
    """Scenes of the subject in any style and place that the base knows."""
    rng = np.random.default_rng([10, world.SUBJECTS.index(subject)])
    paint = paint_of(subject)
    return [world.sample(rng, subjects=(subject,), paint=paint, bare=True) for _ in range(count)]


def measure(
    base: studio.Base, subject: str, *, count: int, steps: int | None, sheet: Path | None
) -> dict[str, dict[str, float]]:
    """Train on five pictures of `subject`; what is right with the adapter and without."""
    trigger = f"sks {subject}"
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        examples.draw_subject(pictures, subject, trigger=trigger, paint=paint_of(subject))
        out = Path(folder) / f"{subject}.safetensors"
        chosen = {} if steps is None else {"steps": steps}
        for _ in trainers.train(
            trainers.LoRA(),
            base,
            pictures,
            trigger=trigger,
            out=out,
            run=Path(folder) / "run",
            **chosen,
        ):
            pass
        adapter = studio.load_adapter(out)
    scenes = unseen_scenes(subject, count)
    made: dict[str, list[Image.Image]] = {"without": [], "with the adapter": []}
    for number, scene in enumerate(scenes):
        for name, mix in (("without", ()), ("with the adapter", ((adapter, 1.0),))):
            shot = studio.Shot(
                prompt=captions.plain(scene, subject=trigger),
                adapters=mix,
                seed=number,
                steps=25,
                guidance=5.0,
            )
            made[name].append(compose.render(base, shot))
    if sheet:
        pictures = made["with the adapter"]
        sheet_of_rows([pictures[at : at + 10] for at in range(0, count, 10)]).save(sheet)
    shares = {name: judge.share_right(pictures, scenes) for name, pictures in made.items()}
    return {name: {factor: share[factor] for factor in FACTORS} for name, share in shares.items()}


def main() -> None:
    """Print the table for the robot, or for the subjects named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subjects", nargs="*", help="subjects; robot when none is given")
    parser.add_argument("--pictures", type=int, default=50)
    parser.add_argument("--steps", type=int, help="training steps, instead of the default")
    parser.add_argument("--sheet", type=Path, help="keep the pictures on one PNG")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    asked = parser.parse_args()
    base = studio.load_base("sketch")
    table = Table("learned", "pictures", *FACTORS, "seconds")
    results = {}
    for subject in asked.subjects or ["robot"]:
        began = time.perf_counter()
        results[subject] = measure(
            base, subject, count=asked.pictures, steps=asked.steps, sheet=asked.sheet
        )
        seconds = f"{time.perf_counter() - began:.0f}"
        for name, shares in results[subject].items():
            table.add_row(subject, name, *(f"{shares[f]:.0%}" for f in FACTORS), seconds)
    if asked.json:
        print(json.dumps(results))
    else:
        Console().print(table)


if __name__ == "__main__":
    main()
