"""Which method gives a subject in a style? ``python -m tests.benchmarks.pairs``

Every subject of tests/benchmarks/elements.py in every style of it, the subject and the style each
an adapter's, at strengths that did best on the robot; for B-LoRA the content half of one that has
learned the subject and the style half of one that has learned the style, merged at 1. All ways have
the same prompts and noise. The judge says whether the subject is right, the style, both, and the
place that the prompt asks for. The row "drawings" is what it says of true drawings of the same
scenes: no way of mixing can be expected to do better.
"""

import argparse
import itertools
import json
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
from studio.sketch import judge
from studio.sketch import scenes as world
from studio.sketch.draw import draw
from tests.benchmarks.elements import ELEMENTS, Element, adapter_of, prompt, sheet_of_rows

STEPS, GUIDANCE = 20, 5.0
METHODS = {  # with the strengths of the subject and of the style
    "merge": (compose.Merge(), (1.0, 0.9)),
    "np": (compose.Merge("np"), (1.4, 1.0)),
    "klora": (compose.KLoRA(), (1.0, 1.0)),
    "klora, s(t) = 1": (compose.KLoRA(alpha=0.0, beta=1.0), (1.3, 1.3)),
    "switch": (compose.Switch(interval=1), (2.0, 2.0)),
    "switch, by trigger": (compose.Switch(interval=1, weigh="trigger"), (2.0, 2.0)),
    "composite": (compose.Composite(), (1.5, 1.5)),
    "composite, by trigger": (compose.Composite(weigh="trigger"), (1.5, 1.5)),
}
HALVES, DRAWINGS = "blora halves", "drawings"

Pair = tuple[Element, Element]
Mixed = tuple[tuple[studio.Adapter, float], ...]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=8, help="of each pair and way")
    parser.add_argument("--elements", nargs="+", default=[one.name for one in ELEMENTS])
    parser.add_argument("--ways", nargs="+", default=[DRAWINGS, *METHODS, HALVES])
    parser.add_argument("--strengths", type=float, nargs=2, help="of each way, instead of its own")
    parser.add_argument("--sheet", type=Path, help="keep a row of each way's pictures here")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    base = studio.load_base("sketch", device="cpu")
    subjects, styles = (
        [one for one in ELEMENTS if one.category == category and one.name in asked.elements]
        for category in ("character", "style")
    )
    found, rows = {}, []
    for way in asked.ways:
        shares, row = [], []
        for pair in itertools.product(subjects, styles):
            scenes = scenes_of(pair, asked.pictures)
            made = drawn(base, way, pair, scenes, asked.strengths)
            shares.append(shares_right(made, scenes))
            row.append(made[0])
        rows.append(row)
        found[way] = {name: float(np.mean([one[name] for one in shares])) for name in shares[0]}
    if asked.sheet:
        sheet_of_rows(rows).save(asked.sheet)
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    count = asked.pictures * len(subjects) * len(styles)
    table = Table("", *next(iter(found.values())), title=f"{count} pictures each")
    for way, shares in found.items():
        table.add_row(way, *(f"{share:.0%}" for share in shares.values()))
    Console().print(table)


def mixed(
    base: studio.Base, way: str, pair: Pair, strengths: Sequence[float] | None = None
) -> Mixed:
    """The adapters of a pair for a way of mixing, subject first; its own strengths where None."""
    if way != HALVES:
        chosen = zip(pair, strengths or METHODS[way][1], strict=True)
        return tuple((adapter_of(base, element), strength) for element, strength in chosen)
    halves = zip(pair, ("content", "style"), strict=True)
    kind = trainers.BLoRA()
    return tuple((select_half(adapter_of(base, one, kind), half), 1.0) for one, half in halves)


def drawn(
    base: studio.Base,
    way: str,
    pair: Pair,
    scenes: Sequence[world.Scene],
    strengths: Sequence[float] | None = None,
) -> Sequence[Image.Image]:
    """A picture of each scene of a pair."""
    if way == DRAWINGS:
        return [draw(scene) for scene in scenes]
    words = {element.category: element.words for element in pair}
    adapters = mixed(base, way, pair, strengths)
    method = METHODS[way][0] if way in METHODS else compose.Merge()
    return [
        compose.render(
            base,
            studio.Shot(
                prompt(scene, words),
                adapters=adapters,
                method=method,
                seed=number,
                steps=STEPS,
                guidance=GUIDANCE,
            ),
        )
        for number, scene in enumerate(scenes)
    ]


def shares_right(
    pictures: Sequence[Image.Image], scenes: Sequence[world.Scene]
) -> Mapping[str, float]:
    """Shares of pictures with the right instance, style, both of them, and place."""
    answers = [
        (one, judge.answers_of(s)) for one, s in zip(judge.read(pictures), scenes, strict=True)
    ]
    subject = [judge.is_instance(said, truth) for said, truth in answers]
    style, place = (
        [said[one] == truth[one] for said, truth in answers] for one in ("style", "place")
    )
    values = {
        "subject": subject,
        "style": style,
        "both": np.logical_and(subject, style),
        "place": place,
    }
    return {name: float(np.mean(value)) for name, value in values.items()}


def scenes_of(pair: Pair, count: int) -> Sequence[world.Scene]:
    """Scenes of the subject in the style, in places that the base knows."""
    subject, style = pair
    rng = np.random.default_rng([33, *(ELEMENTS.index(element) for element in pair)])
    return [
        world.sample(
            rng, subjects=(subject.name,), styles=(style.name,), paint=subject.paint, bare=True
        )
        for _ in range(count)
    ]


if __name__ == "__main__":
    main()
