"""What does a reward change, and what does it leave? ``python -m tests.benchmarks.align``

An adapter is trained on `sketch` for each reward, as `studio align REWARD --size 64` does, and
draws prompts and seeds that it never saw, in the base's own size. Printed are the reward before and
after, whether it reads as better in each picture, and how the judge finds the prompts followed (the
mean of subject, colour, place and style) beside the base's own; a sheet shows pictures before and
after.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

import trainers
from studio.requests.validation import build

if TYPE_CHECKING:
    from studio import Adapter, Base

REWARDS: dict[str, dict[str, object]] = {
    "tile": {},
    "palette": {"colours": ("navy", "white", "orange")},
    "brightness": {"target": 0.25},
    "contrast": {"target": 0.35},
    "filesize": {},
    "judge": {"factor": "style", "answer": "watercolor"},
}
FACTORS = ("subject", "colour", "place", "style")
SHOWN = 8  # pictures of a row of the sheet; the first row is the base's own
FLOOR = 0.8  # of what the base follows of prompts; below it pictures are no longer the base's


def main() -> None:
    """Print the table for all rewards, or for those named."""
    import studio
    from studio.sketch import captions
    from studio.sketch import scenes as world

    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.align", description=__doc__)
    parser.add_argument("rewards", nargs="*", default=list(REWARDS))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--size", type=int, default=64, help="of the training's pictures")
    parser.add_argument("--pictures", type=int, default=12, help="held out, of the base's own size")
    parser.add_argument("--sheet", type=Path, default=Path("align.png"))
    asked = parser.parse_args()
    base = studio.load_base("sketch", device="cpu")
    scenes = [
        world.sample(np.random.default_rng([77, n]), bare=True) for n in range(asked.pictures)
    ]
    prompts = [captions.plain(scene) for scene in scenes]
    before = _drawn(base, prompts, ())
    table = Table("reward", "before", "after", "better", "followed", "base", "distance", "seconds")
    sheet = [before[:SHOWN]]
    for name in asked.rewards:
        reward = build(trainers.reward_kinds()[name], REWARDS[name])
        adapter, distance, seconds = _aligned(base, reward, asked.steps, asked.size)
        after = _drawn(base, prompts, ((adapter, 1.0),))
        scores = [_scores(reward, pictures, prompts) for pictures in (before, after)]
        followed = [_followed(pictures, scenes) for pictures in (before, after)]
        better = mean(new > old for old, new in zip(*scores, strict=True))
        floor = "" if followed[1] >= FLOOR * followed[0] else " (below the floor)"
        means = (f"{mean(one):.3f}" for one in scores)
        shares = (f"{better:.0%}", f"{followed[1]:.0%}{floor}", f"{followed[0]:.0%}")
        table.add_row(name, *means, *shares, f"{distance:.2f}", f"{seconds:.0f}")
        sheet.append(after[:SHOWN])
        Console(stderr=True).print(table)  # so far
        _save(sheet, base.size, asked.sheet)
    Console().print(table)


def _save(sheet: list[list[Image.Image]], side: int, path: Path) -> None:
    """The base's own pictures, and below them those of each reward so far."""
    whole = Image.new("RGB", (side * SHOWN, side * len(sheet)))
    for y, row in enumerate(sheet):
        for x, one in enumerate(row):
            whole.paste(one, (side * x, side * y))
    whole.save(path)


def _aligned(
    base: "Base", reward: trainers.Kind, steps: int, size: int
) -> "tuple[Adapter, float, float]":
    """The adapter, how far the pictures of the last step were from the base's own, and seconds."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        *events, done = trainers.align(
            reward, base, run=Path(folder) / "run", steps=steps, size=size
        )
        seconds = time.perf_counter() - began
    assert isinstance(done, trainers.Finished)
    taken = [event.measured for event in events if isinstance(event, trainers.Step)]
    return done.adapter, taken[-1]["distance"], seconds


def _drawn(base, prompts: list[str], adapters) -> list[Image.Image]:
    import compose
    import studio

    shots = [
        studio.Shot(
            prompt, seed=1000 + n, steps=12, guidance=5.0, adapters=adapters, base=base.source
        )
        for n, prompt in enumerate(prompts)
    ]
    made = sorted(compose.render_many(base, shots), key=lambda one: one.number)
    return [one.picture for one in made if isinstance(one, compose.Made)]


def _scores(reward, pictures: list[Image.Image], prompts: list[str]) -> list[float]:
    import torch

    pixels = torch.from_numpy(np.stack([np.asarray(one.convert("RGB")) for one in pictures]))
    with torch.no_grad():
        return reward.score(pixels.permute(0, 3, 1, 2).float() / 255, prompts).tolist()


def _followed(pictures: list[Image.Image], scenes) -> float:
    from studio.sketch import judge

    right = judge.share_right(pictures, scenes)
    return mean(right[name] for name in FACTORS)


if __name__ == "__main__":
    main()
