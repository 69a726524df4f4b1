"""How good and how fast are distilled adapters on sketch? ``python -m tests.benchmarks.fast``

Distils the guidance of sketch, and an LCM, as `studio distill` does; a stopped run goes on. Then
the same captions are drawn with the same noise: by 25 guided steps of the base alone, with the
guidance adapter in 12 and 25 unguided steps, with the LCM in 4 and 8, and by the base alone in as
few rows. The judge tells what is right. Settings are chosen on one half of the captions; the other
half is reported. With --mixed the striped robot is drawn in two styles that sketch has not seen,
each of them an adapter, merged with the fast one.
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

import compose
import studio
import trainers
from studio.sketch import captions, judge
from studio.sketch import scenes as world
from tests.benchmarks.elements import ELEMENTS, prompt, sheet_of_rows
from tests.benchmarks.pairs import Mixed, mixed, scenes_of, shares_right
from ui.shared.training_run import draw_with

FACTORS = ("subject", "colour", "place", "style", "worn", "held")
KINDS = {"guidance": trainers.Guidance(), "lcm": trainers.LCM()}
MIXED = ("robot", "stained glass", "ink drawing")
DPMPP_2M = {"scheduler": "dpmpp_2m", "spacing": "trailing"}
# How each way draws: the kind of its adapter, and fields of the shot.
WAYS: Mapping[str, tuple[str | None, dict[str, Any]]] = {
    "25 guided steps": (None, {"steps": 25, "guidance": 5.0}),
    "guidance, 25 steps": ("guidance", {"steps": 25, "guidance": 1.0}),
    "guidance, 12 steps": ("guidance", {"steps": 12, "guidance": 1.0}),
    "LCM, 8 steps": ("lcm", {"steps": 8, "guidance": 1.0, "scheduler": "lcm"}),
    "LCM, 4 steps": ("lcm", {"steps": 4, "guidance": 1.0, "scheduler": "lcm"}),
    "base, 12 unguided steps": (None, {"steps": 12, "guidance": 1.0}),
    "base, 12 guided steps": (None, {"steps": 12, "guidance": 5.0}),
    "base, 8 guided steps": (None, {"steps": 8, "guidance": 5.0}),
    "base, 8 of DPM++ 2M": (None, {"steps": 8, "guidance": 5.0} | DPMPP_2M),
    "base, 6 of DPM++ 2M": (None, {"steps": 6, "guidance": 5.0} | DPMPP_2M),
    "base, 4 guided steps": (None, {"steps": 4, "guidance": 5.0}),
}


def distilled(base: studio.Base, kind: str, runs: Path, precision: str) -> tuple[Path, float]:
    """The adapter of a kind, trained on sketch's captions, and the seconds that it took."""
    run, made = runs / kind, KINDS[kind]
    file = run / "adapter.safetensors"
    if not file.exists():
        draw = draw_with(base, made.sampling.fields())
        if (run / "recipe.toml").exists():
            progress = trainers.resume(run, base, draw=draw)
        else:
            options = {"save_every": 20, "precision": precision}
            progress = trainers.distill(made, base, run=run, draw=draw, **options)
        for event in progress:
            if isinstance(event, trainers.Finished):
                (run / "seconds").write_text(f"{event.seconds:.0f}")
    return file, float((run / "seconds").read_text())


@contextmanager
def counting_rows(base: studio.Base) -> Iterator[list[int]]:
    """The list holds one number inside the block: the rows that the UNet has evaluated."""
    rows = [0]

    def count(unet: object, given: tuple[Any, ...], named: object) -> None:
        rows[0] += len(given[0])

    hook = base.unet.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield rows
    finally:
        hook.remove()


@dataclass(frozen=True)
class Found:
    """What is right of some pictures, by factor, and what one of them took."""

    shares: Mapping[str, float]
    seconds: float
    rows: int
    pictures: Sequence[Image.Image]


def drawn(
    base: studio.Base, prompts: Sequence[str], adapters: Mixed, **fields: Any
) -> tuple[list[Image.Image], float, int]:
    """The pictures of these prompts, and seconds and rows of each."""
    pictures, began = [], time.perf_counter()
    with counting_rows(base) as rows:
        for number, words in enumerate(prompts):
            shot = studio.Shot(words, adapters=adapters, seed=number, **fields)
            pictures.append(compose.render(base, shot))
    return pictures, (time.perf_counter() - began) / len(prompts), rows[0] // len(prompts)


def of_captions(base: studio.Base, count: int, half: str, fast: Mixed, **fields: Any) -> Found:
    """Pictures of so many captions."""
    rng = np.random.default_rng([22, half == "reported"])
    scenes = [world.sample(rng) for _ in range(count)]
    pictures, seconds, rows = drawn(base, [*map(captions.plain, scenes)], fast, **fields)
    share = judge.share_right(pictures, scenes)
    shares = {factor: share[factor] for factor in FACTORS}
    shares = {"right": float(np.mean([*shares.values()])), **shares}
    return Found(shares, seconds, rows, pictures)


def of_mixes(base: studio.Base, count: int, half: str, fast: Mixed, **fields: Any) -> Found:
    """Pictures of the robot, half of them in each style; the adapters at the strengths of pairs."""
    robot, *styles = (one for one in ELEMENTS if one.name in MIXED)
    found, pictures, took, rows = [], [], 0.0, 0
    for pair in ((robot, style) for style in styles):
        each = count // len(styles)
        scenes = scenes_of(pair, 2 * each)[each if half == "reported" else 0 :][:each]
        prompts = [prompt(scene, {one.category: one.words for one in pair}) for scene in scenes]
        adapters = (*mixed(base, "merge", pair), *fast)
        made, seconds, rows = drawn(base, prompts, adapters, **fields)
        found.append(shares_right(made, scenes))
        pictures, took = pictures + made, took + seconds / len(styles)
    shares = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    return Found(shares, took, rows, pictures)


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/fast"))
    parser.add_argument("--pictures", type=int, default=48, help="of each way")
    parser.add_argument("--half", choices=("chosen", "reported"), default="reported")
    parser.add_argument("--only", nargs="*", choices=WAYS, default=[*WAYS])
    parser.add_argument("--mixed", action="store_true", help="with a subject and a style")
    parser.add_argument("--precision", default="bf16", help="of the trainings")
    parser.add_argument("--sheet", type=Path, help="keep the first pictures of each way on one PNG")
    asked = parser.parse_args()
    base = studio.load_base("sketch", device="cpu")
    look = of_mixes if asked.mixed else of_captions
    found: dict[str, Found] = {}
    for way in asked.only:
        kind, fields = WAYS[way]
        fast: Mixed = ()
        if kind:
            file, seconds = distilled(base, kind, asked.runs, asked.precision)
            Console().print(f"{kind}: trained in {seconds:.0f} s, {file.stat().st_size:,} bytes")
            fast = ((studio.load_adapter(file, base=base), 1.0),)
        found[way] = look(base, asked.pictures, asked.half, fast, **fields)
    table = Table("", "UNet rows", "seconds", *found[asked.only[0]].shares)
    for way, one in found.items():
        shares = [f"{share:.1%}" for share in one.shares.values()]
        table.add_row(way, str(one.rows), f"{one.seconds:.2f}", *shares)
    Console().print(table)
    if asked.sheet:
        sheet_of_rows([one.pictures[:12] for one in found.values()]).save(asked.sheet)


if __name__ == "__main__":
    main()
