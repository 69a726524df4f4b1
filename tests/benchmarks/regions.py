"""Two subjects in one picture, each right and in its place? ``python -m tests.benchmarks.regions``

Two adapters of tests/benchmarks/elements.py, each an instance of its own: the robot in pink and
teal stripes and the octopus, a class that sketch has never seen. Sketch learned pictures of one
subject, 128 x 128; pictures here are 256 x 128, so that each half is a picture of the size that it
knows. In every second picture the two change sides. All ways have the same words, places, styles
and noise: with drawn regions each prompt names one subject, otherwise one prompt names both. "Each
alone" is no mix: two pictures of one adapter each, side by side. So well each half can be drawn.
"Drawings" are true drawings of the halves: so many the judge knows.

The judge reads each half by itself: whether its subject is the very instance, whether both are, and
whether the halves have the style and the place that were asked for. Without drawn regions nobody
says who stands where, so there a picture also counts as right where the two stand the other way
round.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

import compose
import studio
from studio.sketch import judge
from studio.sketch import scenes as world
from studio.sketch.draw import draw
from tests.benchmarks.elements import ELEMENTS, Element, adapter_of, prompt, sheet_of_rows

SIDE, STEPS, GUIDANCE = 128, 25, 5.0
HALVES = ("0,0,0.5,1", "0.5,0,1,1")


@dataclass(frozen=True)
class Way:
    """drawn: with a box and a prompt for each subject; otherwise one prompt names both.

    method: None draws each subject alone.  true: true drawings, of no adapter.
    """

    method: compose.Method | None
    drawn: bool
    true: bool = False


WAYS = {
    "drawings": Way(None, drawn=True, true=True),
    "merge": Way(compose.Merge(), drawn=False),
    "regions": Way(compose.Regions(), drawn=True),
    "regions, whole 0.2": Way(compose.Regions(whole=0.2), drawn=True),
    "regions, apart 0": Way(compose.Regions(apart=0), drawn=True),
    "attention masks": Way(compose.Regions(masks="attention"), drawn=False),
    "CLoRA's contrast 0.1": Way(compose.Regions(masks="attention", contrast=0.1), drawn=False),
    "each alone": Way(None, drawn=True),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=16, help="of each way")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first picture")
    parser.add_argument("--elements", nargs=2, default=["robot", "octopus"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--sheet", type=Path, help="a .png of the pictures, a row for each way")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    base = studio.load_base("sketch", device="cpu")
    pair = [one for name in asked.elements for one in ELEMENTS if one.name == name]
    numbers = range(asked.first, asked.first + asked.pictures)
    rows, found = [], {}
    for way in asked.ways:
        begun = process_time()
        pictures = [picture(base, WAYS[way], pair, number) for number in numbers]
        seconds = (process_time() - begun) / len(pictures)
        rows.append(pictures)
        found[way] = shares(pictures, pair, numbers, swapped=not WAYS[way].drawn)
        found[way]["seconds"] = seconds
    if asked.sheet:
        sheet_of_rows(rows, width=2 * SIDE).save(asked.sheet)
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    table = Table("", *next(iter(found.values())), title=f"{asked.pictures} pictures each")
    for way, values in found.items():
        *told, seconds = values.values()
        table.add_row(way, *(f"{value:.0%}" for value in told), f"{seconds:.1f}")
    Console().print(table)


def picture(base: studio.Base, way: Way, pair: Sequence[Element], number: int) -> Image.Image:
    """One picture of a way: its adapters and boxes are in the order of the two halves."""
    if way.true:
        return _side_by_side([draw(scene) for scene in scenes_of(pair, number)])
    if way.method is None:
        return _side_by_side(_alone(base, pair, number))
    left, right = sides(pair, number)
    scene = scenes_of(pair, number)[0]
    words = [prompt(scene, {one.category: one.words}) for one in (left, right)]
    both = prompt(scene, {left.category: f"{left.words} and a {right.words}"})
    boxes = [f"{box}: {said}" for box, said in zip(HALVES, words, strict=True)]
    return compose.render(
        base,
        studio.Shot(
            both,
            adapters=tuple((adapter_of(base, one), 1.0) for one in (left, right)),
            method=way.method,
            regions=tuple(boxes) if way.drawn else (),
            seed=number,
            width=2 * SIDE,
            height=SIDE,
            steps=STEPS,
            guidance=GUIDANCE,
        ),
    )


def _alone(base: studio.Base, pair: Sequence[Element], number: int) -> list[Image.Image]:
    """A picture of each adapter, with the same noise."""
    scene = scenes_of(pair, number)[0]
    return [
        compose.render(
            base,
            studio.Shot(
                prompt(scene, {one.category: one.words}),
                adapters=((adapter_of(base, one), 1.0),),
                seed=number,
                steps=STEPS,
                guidance=GUIDANCE,
            ),
        )
        for one in sides(pair, number)
    ]


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """One picture of the two halves."""
    halves = Image.new("RGB", (2 * SIDE, SIDE))
    for place, one in enumerate(pictures):
        halves.paste(one, (place * SIDE, 0))
    return halves


def sides(pair: Sequence[Element], number: int) -> Sequence[Element]:
    """Who stands left and right in a picture."""
    return pair if number % 2 == 0 else pair[::-1]


def scenes_of(pair: Sequence[Element], number: int) -> list[world.Scene]:
    """The truth about the two halves: the subjects differ, the place and the style do not."""
    drawn = []
    for one in sides(pair, number):
        rng = np.random.default_rng([77, number])
        drawn.append(world.sample(rng, subjects=(one.name,), paint=one.paint, bare=True))
    return drawn


def shares(
    pictures: Sequence[Image.Image],
    pair: Sequence[Element],
    numbers: Sequence[int],
    *,
    swapped: bool,
) -> dict[str, float]:
    """Shares right of the pictures of these numbers. swapped: either may stand on either side."""
    left = judge.read([one.crop((0, 0, SIDE, SIDE)) for one in pictures])
    right = judge.read([one.crop((SIDE, 0, 2 * SIDE, SIDE)) for one in pictures])
    told: dict[str, list[float]] = {name: [] for name in ("subject", "both", "style", "place")}
    for number, *read in zip(numbers, left, right, strict=True):
        truth = [judge.answers_of(scene) for scene in scenes_of(pair, number)]
        answers = [*read]
        ways = [truth, truth[::-1]] if swapped else [truth]
        hits = max(
            ([judge.is_instance(*one) for one in zip(answers, way, strict=True)] for way in ways),
            key=sum,
        )
        told["subject"].append(float(np.mean(hits)))
        told["both"].append(float(all(hits)))
        for name in ("style", "place"):
            told[name].append(float(np.mean([one[name] == truth[0][name] for one in answers])))
    return {name: float(np.mean(values)) for name, values in told.items()}


if __name__ == "__main__":
    main()
