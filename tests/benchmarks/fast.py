"""How good and how fast are distilled adapters on sketch? ``python -m tests.benchmarks.fast``

Distils the guidance of sketch, and an LCM, as `studio distill` does; a stopped run goes on. Then
the same captions are drawn with the same noise: by 25 guided steps of the base alone, with the
guidance adapter in 12 and 25 unguided steps, with the LCM in 4 and 8, and by the base alone in as
few rows. The judge tells what is right. Settings are chosen on one half of the captions; the other
half is reported. With --mix a subject's and a style's adapter are in every mix.
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from tests.benchmarks.elements import sheet_of_rows
from ui.shared.training_run import draw_with

FACTORS = ("subject", "colour", "place", "style", "worn", "held")
KINDS = {"guidance": trainers.Guidance(), "lcm": trainers.LCM()}
STEPS = {"guidance": 150, "lcm": 250}
# How each way draws: the kind of its adapter, and fields of the shot.
WAYS: Mapping[str, tuple[str | None, dict[str, Any]]] = {
    "25 guided steps": (None, {"steps": 25, "guidance": 5.0}),
    "guidance, 25 steps": ("guidance", {"steps": 25, "guidance": 1.0}),
    "guidance, 12 steps": ("guidance", {"steps": 12, "guidance": 1.0}),
    "LCM, 8 steps": ("lcm", {"steps": 8, "guidance": 1.0, "scheduler": "lcm"}),
    "LCM, 4 steps": ("lcm", {"steps": 4, "guidance": 1.0, "scheduler": "lcm"}),
    "base, 12 unguided steps": (None, {"steps": 12, "guidance": 1.0}),
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
            options = {"steps": STEPS[kind], "save_every": 25, "precision": precision}
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


def drawn(
    base: studio.Base,
    scenes: Sequence[world.Scene],
    adapters: Sequence[tuple[Path, float]],
    **fields: Any,
) -> tuple[list[Image.Image], float, int]:
    """The pictures of these scenes, and seconds and rows of each."""
    loaded = tuple((studio.load_adapter(file, base=base), strength) for file, strength in adapters)
    pictures, began = [], time.perf_counter()
    with counting_rows(base) as rows:
        for number, scene in enumerate(scenes):
            shot = studio.Shot(captions.plain(scene), adapters=loaded, seed=number, **fields)
            pictures.append(compose.render(base, shot))
    return pictures, (time.perf_counter() - began) / len(scenes), rows[0] // len(scenes)


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/fast"))
    parser.add_argument("--pictures", type=int, default=48, help="of each way")
    parser.add_argument("--half", choices=("chosen", "reported"), default="reported")
    parser.add_argument("--only", nargs="*", choices=WAYS, default=[*WAYS])
    parser.add_argument("--mix", nargs="*", default=[], help="FILE:STRENGTH in every mix")
    parser.add_argument("--precision", default="bf16", help="of the trainings")
    parser.add_argument("--sheet", type=Path, help="keep the first pictures of each way on one PNG")
    asked = parser.parse_args()
    base = studio.load_base("sketch", device="cpu")
    rng = np.random.default_rng([22, asked.half == "reported"])
    scenes = [world.sample(rng) for _ in range(asked.pictures)]
    mix = [(Path(one.rpartition(":")[0]), float(one.rpartition(":")[2])) for one in asked.mix]
    table = Table("", "UNet rows", "seconds", "right", *FACTORS)
    rows = []
    for way in asked.only:
        kind, fields = WAYS[way]
        fast = []
        if kind:
            file, seconds = distilled(base, kind, asked.runs, asked.precision)
            Console().print(f"{kind}: trained in {seconds:.0f} s, {file.stat().st_size:,} bytes")
            fast = [(file, 1.0)]
        pictures, seconds, evaluated = drawn(base, scenes, [*fast, *mix], **fields)
        share = judge.share_right(pictures, scenes)
        mean = np.mean([share[factor] for factor in FACTORS])
        shares = [f"{share[factor]:.0%}" for factor in FACTORS]
        table.add_row(way, str(evaluated), f"{seconds:.2f}", f"{mean:.1%}", *shares)
        rows.append(pictures[:12])
    Console().print(table)
    if asked.sheet:
        sheet_of_rows(rows).save(asked.sheet)


if __name__ == "__main__":
    main()
