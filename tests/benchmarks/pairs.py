"""Which method gives a subject in a style? ``python -m tests.benchmarks.pairs``

Every subject of tests/benchmarks/elements.py in every style of it, the subject and the style each
an adapter's, at strength 0.8; for B-LoRA the content half of one that has learned the
subject and the style half of one that has learned the style, merged at 1. All ways have the same
prompts and noise. The judge says whether the subject is right, the style, both, and the place that
the prompt asks for.
"""

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence

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
from tests.benchmarks.elements import ELEMENTS, Element, adapter_of, prompt

STRENGTHS, STEPS, GUIDANCE = (0.8, 0.8), 20, 5.0  # of the subject and of the style
METHODS = {
    "merge": compose.Merge(),
    "composite": compose.Composite(),
    "switch": compose.Switch(interval=2),
    "klora": compose.KLoRA(),
    "np": compose.Merge("np"),
    "np, kappa 1": compose.Merge("np", kappa=1),
    "switch, by trigger": compose.Switch(interval=2, weigh="trigger"),
    "composite, by trigger": compose.Composite(weigh="trigger"),
}
HALVES = "blora halves"

Pair = tuple[Element, Element]
Mixed = tuple[tuple[studio.Adapter, float], ...]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=8, help="of each pair and way")
    parser.add_argument("--elements", nargs="+", default=[one.name for one in ELEMENTS])
    parser.add_argument("--ways", nargs="+", default=[*METHODS, HALVES])
    parser.add_argument("--strengths", type=float, nargs=2, default=STRENGTHS)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    base = studio.load_base("sketch", device="cpu")
    subjects, styles = (
        [one for one in ELEMENTS if one.category == category and one.name in asked.elements]
        for category in ("character", "style")
    )
    found = {}
    for way in asked.ways:
        shares = []
        for pair in itertools.product(subjects, styles):
            shares.append(
                judged(base, way, pair, mixed(base, way, pair, asked.strengths), asked.pictures)
            )
        found[way] = {name: float(np.mean([one[name] for one in shares])) for name in shares[0]}
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    count = asked.pictures * len(subjects) * len(styles)
    table = Table("", *next(iter(found.values())), title=f"{count} pictures each")
    for way, shares in found.items():
        table.add_row(way, *(f"{share:.0%}" for share in shares.values()))
    Console().print(table)


def mixed(base: studio.Base, way: str, pair: Pair, strengths: Sequence[float]) -> Mixed:
    """The adapters of a pair for a way of mixing, subject first."""
    if way != HALVES:
        chosen = zip(pair, strengths, strict=True)
        return tuple((adapter_of(base, element), strength) for element, strength in chosen)
    halves = zip(pair, ("content", "style"), strict=True)
    kind = trainers.BLoRA()
    return tuple((select_half(adapter_of(base, one, kind), half), 1.0) for one, half in halves)


def judged(
    base: studio.Base, way: str, pair: Pair, adapters: Mixed, count: int
) -> Mapping[str, float]:
    """Shares right of a pair's pictures."""
    scenes = scenes_of(pair, count)
    words = {element.category: element.words for element in pair}
    pictures = [
        compose.render(
            base,
            studio.Shot(
                prompt(scene, words),
                adapters=adapters,
                method=METHODS.get(way, compose.Merge()),
                seed=number,
                steps=STEPS,
                guidance=GUIDANCE,
            ),
        )
        for number, scene in enumerate(scenes)
    ]
    return shares_right(pictures, scenes)


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
