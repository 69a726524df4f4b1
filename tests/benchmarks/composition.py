"""What does mixing cost? ``python -m tests.benchmarks.composition``

Every method's time for a picture's latents, as a multiple of the plain base's in the same run:

- next: the picture after the first, with another seed. All that a method sets up for each picture
  is in it.
- first: with adapters and a prompt never seen before.
- slider: with one strength changed since the last picture.
- authors' way: the same method on diffusers' pipeline with peft, as its authors' code runs it
  (tests/compose/plainly.py): adapters set by name at every switch and every pass, both changes
  multiplied out and sorted at every layer and step for K-LoRA, and nothing reused for CMLoRA, which
  is what its code does as published. The prompt is encoded once for all of them.

The adapters are LoRAs of rank 16 on the attention. Every row is timed beside a plain picture and in
turns with all others, so that a machine that slows down slows all; the best of the turns counts.

``--plot FILE`` draws instead how far CMLoRA's reused features lead away from computing them anew.
"""

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

import compose
import studio
from studio.adapters.adapter import Adapter
from studio.adapters.delta import Delta, LowRank
from tests.benchmarks.wide import SKETCH, wide_sdxl

RANK = 16
STEPS = {"sketch": 10, "wide": 4}
GUIDANCE = 5.0
PROMPT = "a red robot in a meadow"
TIMED = ("next", "first", "slider", "authors")
INTERVALS = (1, 2, 3, 4, 6, 8)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Case:
    """A row. goal: the most that the next picture may take, in plain ones."""

    method: compose.Method
    count: int
    goal: float | None
    goal_is_of: str = ""

    @property
    def name(self) -> str:
        return type(self.method).__name__.lower()


def cases(most: int) -> list[Case]:
    """Every method with 1 to `most` adapters; K-LoRA has two roles."""
    counts = range(1, most + 1)
    return [
        *(Case(compose.Merge(), n, 1.03) for n in counts),
        *(Case(compose.Switch(), n, 1.05) for n in counts),
        *(Case(compose.KLoRA(), n, 1.08) for n in counts if n == 2),
        *(Case(compose.Composite(), n, 1.02 * n) for n in counts),
        *(Case(compose.CMLoRA(), n, 0.6 if n == 3 else None, "composite") for n in counts),
    ]


@dataclass
class Times:
    """Seconds of every turn, by what was measured; "plain" is the base's own picture beside it."""

    taken: dict[str, list[float]] = field(default_factory=dict)

    def measure(self, what: str, clock: Callable[[], float], draw: Callable[[], None]) -> None:
        began = clock()
        draw()
        self.taken.setdefault(what, []).append(clock() - began)

    def ratio(self, what: str) -> float | None:
        """Of the best turn to the best plain one of as many."""
        times = self.taken.get(what)
        return min(times) / min(self.taken["plain"][: len(times)]) if times else None


class Ours:
    """Studio, at work on one base."""

    def __init__(self, base: studio.Base, adapters: Sequence[Adapter], steps: int) -> None:
        self.base, self.adapters, self.steps = base, adapters, steps
        self.fresh = count(1)

    def shot(self, case: Case | None) -> studio.Shot:
        plain = studio.Shot(PROMPT, steps=self.steps, guidance=GUIDANCE)
        if case is None:
            return plain
        pairs = tuple((adapter, 0.8) for adapter in self.adapters[: case.count])
        return replace(plain, adapters=pairs, method=case.method)

    def draw(self, shot: studio.Shot) -> None:
        """Denoise, of a seed that was not there before."""
        compose.render(self.base, replace(shot, seed=next(self.fresh)), output="latents")

    def unseen(self, shot: studio.Shot) -> studio.Shot:
        """The shot with copies of its adapters and another prompt."""
        pairs = tuple((one.to(), strength) for one, strength in shot.adapters)
        return replace(shot, prompt=f"{shot.prompt}, {next(self.fresh)}", adapters=pairs)

    def slid(self, shot: studio.Shot) -> studio.Shot:
        """The shot with the last adapter's strength changed."""
        *others, (last, _) = shot.adapters
        return replace(shot, adapters=(*others, (last, 0.5 + 0.001 * next(self.fresh))))


class Theirs:
    """diffusers and peft, with the same base and adapters."""

    def __init__(self, folder: Path, files: Sequence[Path], steps: int, size: int) -> None:
        # Imported here, so that `--ours` runs without peft.
        from diffusers import StableDiffusionXLPipeline
        from diffusers.utils.logging import disable_progress_bar

        disable_progress_bar()
        self.pipeline = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        self.names = [path.stem for path in files]
        for path in files:
            self.pipeline.load_lora_weights(str(path), adapter_name=path.stem)
        self.steps, self.size = steps, size

    def draw(self, case: Case) -> None:
        from tests.compose.plainly import Plainly

        worn = dict.fromkeys(self.names[: case.count], 0.8)
        plainly = Plainly(
            self.pipeline,
            worn,
            PROMPT,
            steps=self.steps,
            guidance=GUIDANCE,
            size=self.size,
            read_under=worn,
        )
        match case.method:
            case compose.Merge():
                plainly.merge()
            case compose.Switch(interval=interval):
                plainly.switch(interval)
            case compose.KLoRA():
                plainly.klora()
            case _:  # CMLoRA's weights cost nothing
                plainly.composite()


def random_adapter(base: studio.Base, seed: int) -> Adapter:
    """A LoRA on the attention whose changes are a tenth of the weights, about."""
    generator = torch.Generator().manual_seed(seed)
    deltas: dict[str, Delta] = {}
    for name, layer in base.layers().items():
        if name.startswith("unet.") and ".attn" in name:
            delta = LowRank.start(layer, RANK, alpha=RANK, generator=generator)
            drawn = torch.empty(delta.up.shape).normal_(std=0.02, generator=generator)
            delta.up.data = drawn.to(delta.up.device)
            deltas[name] = delta
    return Adapter(deltas=deltas, kind="lora", family=base.family, name=f"random-{seed}")


def measure(folder: Path, scratch: Path, asked: argparse.Namespace, steps: int) -> list[dict]:
    """The rows of one base."""
    clock = CLOCKS[asked.clock]
    # The plain base is another one, so that its pictures leave the other's weights as they are.
    base, other = (studio.load_base(folder, device="cpu") for _ in range(2))
    adapters = [random_adapter(base, seed) for seed in range(asked.most)]
    ours, plain = Ours(base, adapters, steps), Ours(other, [], steps)
    theirs = None
    if not asked.ours:
        files = [one.save(scratch / f"{one.name}.safetensors") for one in adapters]
        theirs = Theirs(folder, files, steps, base.size)
    rows = [(case, Times()) for case in cases(asked.most)]
    plain.draw(plain.shot(None))
    for _ in range(asked.turns):
        for case, times in rows:
            shot = ours.shot(case)
            ours.draw(shot)
            times.measure("plain", clock, partial(plain.draw, plain.shot(None)))
            times.measure("next", clock, partial(ours.draw, shot))
            times.measure("slider", clock, partial(ours.draw, ours.slid(shot)))
            times.measure("first", clock, partial(ours.draw, ours.unseen(shot)))
            if theirs is not None:
                times.measure("authors", clock, partial(theirs.draw, case))
    return _told(rows)


def _told(rows: Sequence[tuple[Case, Times]]) -> list[dict]:
    """What the table holds, in multiples of a plain picture."""
    nexts = {(case.name, case.count): times.ratio("next") for case, times in rows}
    seconds = min(second for _, times in rows for second in times.taken["plain"])
    told: list[dict] = [{"method": "plain", "adapters": 0, "seconds": seconds}]
    for case, times in rows:
        of = nexts[case.goal_is_of, case.count] if case.goal_is_of else 1.0
        told.append(
            {
                "method": case.name,
                "adapters": case.count,
                **{what: times.ratio(what) for what in TIMED},
                "goal": case.goal,
                "goal_is_of": case.goal_is_of or "plain",
                "reached": None if case.goal is None else nexts[case.name, case.count] / of,
            }
        )
    return told


def table(rows: Sequence[dict], title: str) -> Table:
    """For people: times in plain pictures, and whether the goal is reached."""
    made = Table("method", "N", "next", "goal", "", "first", "slider", "authors' way", title=title)
    for row in rows[1:]:
        goal, of = row["goal"], row["goal_is_of"]
        said = "" if goal is None else f"{goal:.2f}" if of == "plain" else f"{goal:g} of {of}"
        reached = "" if goal is None else "yes" if row["reached"] <= goal else "no"
        if goal is not None and of != "plain":
            reached += f", {row['reached']:.2f}"
        times = ("" if row[what] is None else f"{row[what]:.2f}" for what in TIMED)
        following, *others = times
        made.add_row(row["method"], str(row["adapters"]), following, said, reached, *others)
    return made


def drift(
    base: studio.Base, *, steps: int, seeds: int, intervals: Sequence[int] = INTERVALS
) -> dict[int, float]:
    """How far CMLoRA's reused features lead away, by the interval of its refresh steps.

    The distance of latents from those of the same rounds with everything computed, as a share of
    their own size; the mean over seeds.
    """
    adapters = tuple((random_adapter(base, seed), 0.8) for seed in range(2))
    shot = studio.Shot(PROMPT, steps=steps, guidance=GUIDANCE, adapters=adapters)
    found = {}
    for interval in intervals:
        away = 0.0
        for seed in range(seeds):
            cached, full = (
                compose.render(
                    base,
                    replace(shot, seed=seed, method=compose.CMLoRA(interval=interval, cache=cache)),
                    output="latents",
                )
                for cache in (True, False)
            )
            away += float((cached - full).norm() / full.norm()) / seeds
        found[interval] = away
    return found


def draw_drift(found: dict[int, float], title: str) -> Image.Image:
    """A line over the intervals."""
    width, height, margin = 560, 320, 48
    picture = Image.new("RGB", (width, height), "#ffffff")
    draw = ImageDraw.Draw(picture)
    top = max(found.values())

    def place(interval: int, away: float) -> tuple[float, float]:
        along = (interval - min(found)) / (max(found) - min(found))
        high = height - 2 * margin
        return margin + along * (width - 2 * margin), height - margin - away / top * high

    draw.text((margin, 12), title, "#202020")
    draw.text((margin, height - 20), "steps between two refreshes", "#202020")
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = place(1, share * top)[1]
        draw.line((margin, y, width - margin, y), "#e0e0e0")
        draw.text((6, y - 6), f"{share * top:.0%}", "#606060")
    line = [place(*point) for point in found.items()]
    draw.line(line, "#3b6fb6", width=3)
    for interval, (x, y) in zip(found, line, strict=True):
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), "#3b6fb6")
        draw.text((x - 3, height - margin + 6), str(interval), "#606060")
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", choices=[*STEPS, "both"], default="both")
    parser.add_argument("--most", type=int, default=3, help="adapters")
    parser.add_argument("--steps", type=int, help="of a picture; 10 on sketch, 4 on wide")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--ours", action="store_true", help="leave out the authors' ways")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: on a machine that others use as well"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path, help="a .png; of CMLoRA's drift instead of times")
    asked = parser.parse_args()
    if asked.plot:
        base = studio.load_base(SKETCH, device="cpu")
        steps = asked.steps or 24
        found = drift(base, steps=steps, seeds=asked.turns)
        title = f"CMLoRA: distance of reused from recomputed latents, sketch, {steps} steps"
        draw_drift(found, title).save(asked.plot)
        print(json.dumps(found) if asked.json else f"{asked.plot}: {found}")
        return
    logging.disable(logging.WARNING)  # peft's and diffusers', on loading adapters
    warnings.simplefilter("ignore")
    told = {}
    for name in STEPS if asked.base == "both" else [asked.base]:
        steps = asked.steps or STEPS[name]
        with tempfile.TemporaryDirectory() as scratch:
            folder = SKETCH if name == "sketch" else wide_sdxl(Path(scratch) / "wide")
            told[name] = rows = measure(folder, Path(scratch), asked, steps)
        if not asked.json:
            plain = f"a plain picture of {steps} steps takes {rows[0]['seconds']:.2f} s"
            Console().print(table(rows, f"{name}, {plain}"))
    if asked.json:
        print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
