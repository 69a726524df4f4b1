"""How well does each kind learn? ``python -m tests.benchmarks.kinds``

Every kind is trained as `studio train KIND` trains it on sketch, for the same number of steps, on
an instance (a striped robot), a held-out subject and held-out styles, each in a process of its own.
Judged are, as shares: whether what was learned is in pictures of unseen prompts; whether the rest
of those prompts is followed (the other factors' mean); and whether prompts without the trigger
still give what the base gives, with the adapter at full strength (the mean of
subject, colour, place and style).

With ``--into FILE`` every training is added to the file when it is done and is not done again by
the same command, so that a run of an hour can be cut; time is the processor's, for that reason.
``--recipe JSON``, given several times, trains with each of these options of the loop, a row each.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

CONCEPTS = ("robot", "octopus", "ink drawing", "neon")
STYLES = ("ink drawing", "neon", "halftone", "stained glass")
FACTORS = ("subject", "colour", "place", "style")
KINDS = ("lora", "sara", "diffusekrona", "blora", "oft", "tlora")


@dataclass(frozen=True)
class Learned:
    """One training and what became of it.

    seconds: the processor's for a step, the median. right, followed, kept: shares, 0 to 1.
    """

    kind: str
    concept: str
    factor: str
    parameters: int
    bytes: int
    peak_mb: float
    seconds: float
    right: float
    followed: float
    kept: float


def main() -> None:
    """Print the table for all kinds, or for those named."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.kinds", description=__doc__)
    parser.add_argument("kinds", nargs="*", default=KINDS)
    parser.add_argument("--concepts", nargs="*", default=CONCEPTS, help="held-out names")
    parser.add_argument("--pictures", type=int, default=30, help="judged of each concept")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--options", type=json.loads, default={}, help="of the kind, as JSON")
    parser.add_argument("--recipe", type=json.loads, action="append", help="options of the loop")
    parser.add_argument("--base", default="sketch")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--into", type=Path, help="keep every training's numbers here, JSON lines")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.recipe = asked.recipe or [{}]
    if asked.alone:
        print(json.dumps(asdict(learn(asked.kinds[0], asked.concepts[0], asked))))
        return
    rows = {
        " ".join((kind, *(f"{name} {value}" for name, value in recipe.items()))): [
            _learned(kind, concept, recipe, asked) for concept in asked.concepts
        ]
        for kind in asked.kinds
        for recipe in asked.recipe
    }
    if asked.json:
        print(json.dumps([asdict(one) for row in rows.values() for one in row], indent=1))
    else:
        Console().print(_table(rows, f"{asked.base}, {asked.steps} steps"))


def _learned(
    kind: str, concept: str, recipe: Mapping[str, object], asked: argparse.Namespace
) -> Learned:
    """What the file holds of this training, or what it comes to, kept in the file."""
    names = ("base", "steps", "pictures", "options")
    settings = {name: getattr(asked, name) for name in names} | {"recipe": recipe}
    known = asked.into.read_text().splitlines() if asked.into and asked.into.exists() else ()
    for entry in map(json.loads, known):
        learned = Learned(**entry["learned"])
        if (learned.kind, learned.concept, entry["settings"]) == (kind, concept, settings):
            return learned
    learned = _in_fresh_process(kind, concept, recipe)
    if asked.into:
        with asked.into.open("a") as file:
            file.write(json.dumps({"settings": settings, "learned": asdict(learned)}) + "\n")
    return learned


def _in_fresh_process(kind: str, concept: str, recipe: Mapping[str, object]) -> Learned:
    """The same command for one training alone, so that its peak memory is its own."""
    options = [arg for arg in sys.argv[1:] if arg != "--json"]
    command = [sys.executable, "-m", "tests.benchmarks.kinds", kind, "--alone"]
    command += [*_without(options, "--concepts", "--recipe"), "--concepts", concept]
    command += ["--recipe", json.dumps(recipe)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Learned(**json.loads(done.stdout.splitlines()[-1]))


def _without(options: Sequence[str], *names: str) -> list[str]:
    """The options without positional kinds and without those named and their values."""
    kept: list[str] = []
    taking = ""
    for option in options:
        taking = option if option.startswith("--") else taking
        if taking not in ("", *names):
            kept.append(option)
    return kept


def learn(kind: str, concept: str, asked: argparse.Namespace) -> Learned:
    """Train one kind on one concept and judge it."""
    import studio
    import trainers

    base = studio.load_base(asked.base, device="cpu")
    made = trainers.kinds()[kind](**asked.options)
    with tempfile.TemporaryDirectory() as folder:
        trigger = _draw(Path(folder) / "pictures", concept)
        out = Path(folder) / "adapter.safetensors"
        seconds, parameters, begun = [], 0, time.process_time()
        for event in trainers.train(
            made,
            base,
            Path(folder) / "pictures",
            trigger=trigger,
            out=out,
            run=Path(folder) / "run",
            **{"steps": asked.steps, "save_every": 0} | asked.recipe[0],
        ):
            if isinstance(event, trainers.Started):
                parameters = event.parameters
            if isinstance(event, trainers.Step):
                seconds.append(time.process_time() - begun)
            begun = time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        factor = "style" if concept in STYLES else "subject"
        shares = _judged(base, studio.load_adapter(out), concept, trigger, asked.pictures)
        return Learned(
            kind=kind,
            concept=concept,
            factor=factor,
            parameters=parameters,
            bytes=out.stat().st_size,
            peak_mb=peak,
            seconds=median(seconds),
            right=shares["with"]["instance" if factor == "subject" else factor],
            followed=mean(shares["with"][name] for name in FACTORS if name != factor),
            kept=mean(shares["without"][name] for name in FACTORS),
        )


def _draw(folder: Path, concept: str) -> str:
    """The concept's pictures, five, and their trigger."""
    from studio.sketch import examples
    from tests.benchmarks.subject import paint_of

    if concept in STYLES:
        examples.draw_style(folder, concept, trigger=f"{concept} style")
        return f"{concept} style"
    examples.draw_subject(folder, concept, trigger=f"sks {concept}", paint=paint_of(concept))
    return f"sks {concept}"


def _judged(base, adapter, concept: str, trigger: str, count: int) -> Mapping[str, dict]:
    """Shares right by factor, for prompts with the trigger and for prompts without."""
    import compose
    import studio
    from studio.sketch import captions, judge
    from studio.sketch import scenes as world
    from tests.benchmarks.subject import paint_of

    is_style = concept in STYLES
    named: dict[str, Any] = (
        {"styles": (concept,)} if is_style else {"subjects": (concept,), "paint": paint_of(concept)}
    )
    shares = {}
    for what, choice in (("with", named), ("without", {})):
        rng = np.random.default_rng([21, what == "with"])
        scenes = [world.sample(rng, bare=True, **choice) for _ in range(count)]
        words = {"style" if is_style else "subject": trigger} if what == "with" else {}
        shots = [
            studio.Shot(
                captions.plain(scene, **words),
                base=base.source,
                adapters=((adapter, 1.0),),
                seed=number,
                steps=25,
                guidance=5.0,
            )
            for number, scene in enumerate(scenes)
        ]
        made = sorted(compose.render_many(base, shots), key=lambda one: one.number)
        pictures = [one.picture for one in made if isinstance(one, compose.Made)]
        shares[what] = judge.share_right(pictures, scenes)
    return shares


def _table(rows: Mapping[str, Sequence[Learned]], title: str) -> Table:
    columns = ("kind", "parameters", "file", "peak memory", "a step")
    judged = ("subject right", "style right", "prompt followed", "base kept")
    table = Table(*columns, *judged, title=title)
    for what, own in rows.items():
        table.add_row(
            what,
            f"{own[0].parameters:,}",
            f"{own[0].bytes / 1e6:.2f} MB",
            f"{max(one.peak_mb for one in own):.0f} MB",
            f"{median(one.seconds for one in own):.3f} s",
            *(_share([one.right for one in own if one.factor == f]) for f in ("subject", "style")),
            _share([one.followed for one in own]),
            _share([one.kept for one in own]),
        )
    return table


def _share(values: Sequence[float]) -> str:
    return f"{mean(values):.0%}" if values else ""


if __name__ == "__main__":
    main()
