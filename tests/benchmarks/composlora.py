"""Which method keeps most of what is mixed? ``python -m tests.benchmarks.composlora``

The protocol of ComposLoRA (Zhong et al. 2024, arXiv 2402.16843) on the sketch world, where the
truth is known and no language model has to judge: eleven adapters (tests/benchmarks/elements.py),
and all 212 sets of 2 to 5 of them that have a character and no category twice. Every adapter has
strength 0.8, every method the same prompt and noise. Of each picture is told which of the set's
elements are in it, as the judge reads it.

Default is a sample of the sets, the same number of each size; --full takes all, --elements those
of some adapters. What is judged is noted in build/composlora, so that a run that was cut short goes
on. Compared with merge are the same sets and noises; intervals are those of 2000 resamplings of the
sets.
"""

import argparse
import hashlib
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

import compose
import studio
from compose.engine.schedule import COLOURS, SHALLOW
from compose.engine.weights.render_cache import adapters_on
from studio.adapters.adapter import Adapter
from studio.sketch import judge
from studio.sketch import scenes as world
from tests.benchmarks.elements import (
    CATEGORIES,
    ELEMENTS,
    Element,
    adapter_of,
    prompt,
    sheet_of_rows,
)

KEPT = Path(__file__).parents[2] / "build" / "composlora"
METHODS = ("merge", "switch", "composite", "klora", "cmlora")
SIZES = (2, 3, 4, 5)
STRENGTH, STEPS, GUIDANCE = 0.8, 20, 5.0
TURN = 2  # steps; with 5 of 20 the last of five adapters would have none
RESAMPLED = 2000
ENOUGH = 4  # sets, to say anything about a size
LOOKS = ("style", "place")  # what K-LoRA has for its style; the rest is content

Set = tuple[Element, ...]


@dataclass(frozen=True)
class Judged:
    """A picture.

    made_with: stands for its set and the settings. right: for each element of the set, whether it
    is there. cost: in evaluations of the UNet. seconds: of one core.
    """

    made_with: str
    number: int
    seed: int
    method: str
    size: int
    right: tuple[bool, ...]
    cost: float
    seconds: float


def all_sets() -> list[Set]:
    """All 212, characters first and the other categories in the order of CATEGORIES."""
    choices = [
        [
            *([] if category == "character" else [None]),
            *(e for e in ELEMENTS if e.category == category),
        ]
        for category in CATEGORIES
    ]
    sets = (tuple(e for e in chosen if e) for chosen in itertools.product(*choices))
    return [one for one in sets if len(one) > 1]


def sets_of(names: Sequence[str]) -> list[int]:
    """Places among all sets of those that these elements make up."""
    return [at for at, one in enumerate(all_sets()) if all(e.name in names for e in one)]


def sample_sets(places: Sequence[int], count: int) -> list[int]:
    """So many of each size, always the same ones."""
    rng = np.random.default_rng(27)
    sets, found = all_sets(), []
    for size in SIZES:
        alike = [at for at in places if len(sets[at]) == size]
        found += rng.permutation(alike)[:count].tolist()
    return found


def method_for(name: str, mixed: Set) -> compose.Method:
    """A method with the roles that the elements of a set have in it."""
    categories = [element.category for element in mixed]
    places = tuple(at for at, one in enumerate(categories, start=1) if one in LOOKS)
    match name:
        case "switch":
            return compose.Switch(interval=TURN)
        case "composite":
            return compose.Composite()
        case "klora":
            return compose.KLoRA(style=places or (len(mixed),))
        case "cmlora":
            low = tuple(at for at, one in enumerate(categories, start=1) if one == "place")
            return compose.CMLoRA(low=low)
    return compose.Merge()


def scene_for(number: int, mixed: Set) -> world.Scene:
    """What a set's prompt asks for; whatever no adapter brings is known to the base."""
    rng = np.random.default_rng([28, number])
    return world.sample(rng, bare=True)


def shot_for(number: int, seed: int, name: str, adapters: Mapping[Element, Adapter]) -> studio.Shot:
    """A method's picture of a set; of the same number and seed all methods start alike."""
    mixed = all_sets()[number]
    words = {element.category: element.words for element in mixed}
    return studio.Shot(
        prompt(scene_for(number, mixed), words),
        adapters=tuple((adapters[element], STRENGTH) for element in mixed),
        method=method_for(name, mixed),
        seed=1000 * number + seed,
        steps=STEPS,
        guidance=GUIDANCE,
    )


def there(picture: Image.Image, mixed: Set) -> tuple[bool, ...]:
    """For each element whether the picture shows it."""
    answers = judge.read([picture])[0]
    factors = {"clothing": "worn", "object": "held", "style": "style", "place": "place"}
    return tuple(
        _is_character(answers, element)
        if element.category == "character"
        else answers[factors[element.category]] == element.name
        for element in mixed
    )


def _is_character(answers: Mapping[str, str], element: Element) -> bool:
    """Whether the subject is the element's class in the element's paint."""
    rng = np.random.default_rng(0)
    truth = judge.answers_of(world.sample(rng, subjects=(element.name,), paint=element.paint))
    return judge.is_instance(answers, truth)


def cost_of(base: studio.Base, shot: studio.Shot) -> float:
    """In full evaluations of the UNet."""
    pairs = [(one, strength) for one, strength in shot.adapters if isinstance(one, Adapter)]
    assert isinstance(shot.method, compose.Method)
    plan = shot.method.prepare(adapters_on(base, pairs), shot.steps)
    calls = [call for step in compose.record(plan, shot.steps) for call in step]
    return sum(SHALLOW if call.reuse else 1.0 for call in calls)


def judged(
    base: studio.Base,
    numbers: Sequence[int],
    seeds: int,
    adapters: Mapping[Element, Adapter],
) -> Iterator[Judged]:
    """Pictures of these sets under every method, those noted before first of all."""
    notes = KEPT / "judged.jsonl"
    KEPT.mkdir(parents=True, exist_ok=True)
    known = {}
    for line in notes.read_text().splitlines() if notes.exists() else []:
        one = json.loads(line)
        noted = Judged(**one | {"right": tuple(one["right"])})
        known[noted.made_with, noted.seed, noted.method] = noted
    sets = all_sets()
    for seed, number, name in itertools.product(range(seeds), numbers, METHODS):
        made_with = _digest([(element, adapters[element]) for element in sets[number]])
        if (made_with, seed, name) not in known:
            shot = shot_for(number, seed, name, adapters)
            began = time.process_time()
            picture = compose.render(base, shot)
            seconds = time.process_time() - began
            right = there(picture, sets[number])
            cost = cost_of(base, shot)
            made = Judged(made_with, number, seed, name, len(right), right, cost, seconds)
            with notes.open("a") as file:
                file.write(json.dumps(asdict(made)) + "\n")
            known[made_with, seed, name] = made
        yield known[made_with, seed, name]


def _digest(mixed: Sequence[tuple[Element, Adapter]]) -> str:
    """Of all that the pictures of a set hang on."""
    files = [one.path.read_bytes() for _, one in mixed if one.path]
    settings = json.dumps([STRENGTH, STEPS, GUIDANCE, TURN, [asdict(one) for one, _ in mixed]])
    return hashlib.sha256(b"".join([settings.encode(), *files])).hexdigest()[:16]


@dataclass(frozen=True)
class Score:
    """A method on sets of a size; shares, and the differences to merge with their 95 % intervals.

    elements, whole: the shares of elements, and of pictures with all of theirs.
    """

    method: str
    size: int
    sets: int
    elements: float
    whole: float
    elements_gain: tuple[float, float, float]
    whole_gain: tuple[float, float, float]
    cost: float
    seconds: float


def scores(found: Sequence[Judged]) -> list[Score]:
    """Of every size and, as size 0, of all sets alike."""
    return [
        _score([one for one in found if size in (0, one.size)], name, size)
        for size in (*SIZES, 0)
        for name in METHODS
        if any(size in (0, one.size) for one in found)
    ]


def _score(found: Sequence[Judged], name: str, size: int) -> Score:
    own = [one for one in found if one.method == name]
    values = {
        (method, what): _by_set([one for one in found if one.method == method], what)
        for method in (name, "merge")
        for what in ("elements", "whole")
    }
    return Score(
        name,
        size,
        len({one.number for one in own}),
        float(values[name, "elements"].mean()),
        float(values[name, "whole"].mean()),
        _gain(values[name, "elements"], values["merge", "elements"]),
        _gain(values[name, "whole"], values["merge", "whole"]),
        float(np.mean([one.cost for one in own])),
        float(np.median([one.seconds for one in own])),
    )


def _by_set(found: Sequence[Judged], what: str) -> np.ndarray:
    """The mean over seeds for each set, in the order of their numbers: [sets]."""
    shares: dict[int, list[float]] = {}
    for one in found:
        share = float(np.mean(one.right)) if what == "elements" else float(all(one.right))
        shares.setdefault(one.number, []).append(share)
    return np.array([np.mean(shares[number]) for number in sorted(shares)])


def _gain(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """The mean difference over the same sets, and where 95 % of its resamplings lie."""
    difference = ours - theirs
    rng = np.random.default_rng(29)
    drawn = difference[rng.integers(len(difference), size=(RESAMPLED, len(difference)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def table(found: Sequence[Score], title: str) -> Table:
    made = Table(
        "N", "sets", "method", "elements", "beside merge", "all right", "beside merge",
        "evaluations", "s", title=title,
    )  # fmt: skip
    for one in found:
        made.add_row(
            str(one.size or "all"),
            str(one.sets),
            one.method,
            f"{one.elements:.0%}",
            "" if one.method == "merge" else _told(one.elements_gain),
            f"{one.whole:.0%}",
            "" if one.method == "merge" else _told(one.whole_gain),
            f"{one.cost:.0f}",
            f"{one.seconds:.2f}",
            end_section=one.method == METHODS[-1],
        )
    return made


def _told(gain: tuple[float, float, float]) -> str:
    mean, low, high = (100 * one for one in gain)
    return f"{mean:+.0f} ({low:+.0f} to {high:+.0f})"


def verdict(found: Sequence[Score]) -> list[str]:
    """For each method whether it has more of the elements than merge, in one sentence.

    Of sizes with enough sets to tell.
    """
    said = []
    for name in METHODS[1:]:
        words = {"more": [], "fewer": [], "no more and no fewer": []}
        for one in found:
            if one.method == name and one.sets >= ENOUGH:
                _, low, high = one.elements_gain
                kind = "more" if low > 0 else "fewer" if high < 0 else "no more and no fewer"
                words[kind].append("all" if one.size == 0 else str(one.size))
        parts = [f"{kind} in sets of {', '.join(sizes)}" for kind, sizes in words.items() if sizes]
        said.append(f"{name} has of the elements, beside merge, {'; '.join(parts)}.")
    return said


def plot(found: Sequence[Score]) -> Image.Image:
    """Two panels over the size of sets: elements right, and all of them right."""
    wide, high, margin = 380, 300, 46
    picture = Image.new("RGB", (2 * wide, high + 30), "#ffffff")
    draw = ImageDraw.Draw(picture)
    for panel, what in enumerate(("elements", "whole")):
        left = panel * wide + margin
        title = "elements in the picture" if what == "elements" else "pictures with all of them"
        draw.text((left, 10), title, "#202020")
        for share in (0, 0.25, 0.5, 0.75, 1):
            y = high - margin - share * (high - 2 * margin)
            draw.line((left, y, left + wide - 2 * margin, y), "#e0e0e0")
            draw.text((left - 34, y - 6), f"{share:.0%}", "#606060")
        for at, name in enumerate(METHODS):
            line = []
            for one in found:
                if one.method == name and one.size:
                    x = left + 12 + (one.size - 2) * (wide - 2 * margin - 24) / 3
                    share = getattr(one, what)
                    line.append((x, high - margin - share * (high - 2 * margin)))
                    draw.text((x - 3, high - margin + 8), str(one.size), "#606060")
            draw.line(line, COLOURS[at], width=3)
            for x, y in line:
                draw.ellipse((x - 4, y - 4, x + 4, y + 4), COLOURS[at])
        draw.text((left, high - 20), "adapters in the set", "#202020")
    x = margin
    for at, name in enumerate(METHODS):
        draw.rectangle((x, high + 8, x + 12, high + 20), COLOURS[at])
        draw.text((x + 18, high + 8), name, "#202020")
        x += 40 + int(draw.textlength(name))
    return picture


def sheet(base: studio.Base, numbers: Sequence[int], adapters: Mapping[Element, Adapter]):
    """A row for each set, a column for each method."""
    return sheet_of_rows(
        [
            [compose.render(base, shot_for(number, 0, name, adapters)) for name in METHODS]
            for number in numbers
        ]
    )


def main() -> None:
    """Print the table, and what it comes to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=int, default=8, help="of each size")
    parser.add_argument("--full", action="store_true", help="all sets that there are, 240 or fewer")
    parser.add_argument("--elements", nargs="+", default=[one.name for one in ELEMENTS])
    parser.add_argument("--seeds", type=int, default=1, help="pictures of a set and method")
    parser.add_argument("--plot", type=Path, help="a .png of the shares by size")
    parser.add_argument("--sheet", type=Path, help="a .png of one set of each size")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    base = studio.load_base("sketch", device="cpu")
    adapters = {one: adapter_of(base, one) for one in ELEMENTS if one.name in asked.elements}
    numbers = sets_of(asked.elements)
    if not asked.full:
        numbers = sample_sets(numbers, asked.sets)
    KEPT.mkdir(parents=True, exist_ok=True)
    told = scores(list(judged(base, numbers, asked.seeds, adapters)))
    if asked.plot:
        plot(told).save(asked.plot)
    if asked.sheet:
        shown = [next(at for at in numbers if len(all_sets()[at]) == size) for size in SIZES]
        sheet(base, shown, adapters).save(asked.sheet)
    if asked.json:
        print(json.dumps([asdict(one) for one in told], indent=1))
        return
    title = f"{len(numbers)} sets, {asked.seeds} each"
    Console().print(table(told, title))
    print("\n".join(verdict(told)))


if __name__ == "__main__":
    main()
