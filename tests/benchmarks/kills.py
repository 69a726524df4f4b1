"""Is a batch that is killed the same batch in the end? ``python -m tests.benchmarks.kills``

A batch on a tiny random SDXL, in groups of two shots, is killed as by `kill -9` at random moments
of its work and gone on with, until it is whole; its files are then compared, byte for byte, with
those of a batch that nobody disturbed.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import compose._evaluate
from tests.compose.conftest import write_lora
from tests.tiny import tiny_sdxl
from ui import cli

__all__ = ["main", "write_manifest"]

KILLS_OF_A_BATCH = 3  # at most, before it is left to end
MANIFEST = """
base = "model"
steps = {steps}
prompts = ["a cat", "a dog"]
seeds = "1..2"
mixes = [[], ["one.safetensors:0.5"], ["two.safetensors"], ["one.safetensors", "two.safetensors"]]
"""


def main() -> None:
    """Kill so many times; exit with 1 where a file differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=6, help="denoising steps of each picture")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    compose._evaluate.MOST_ON_CPU = 4 * 64  # four rows of 8 x 8 latents: two shots
    with tempfile.TemporaryDirectory() as folder:
        same = torment(Path(folder), kills=asked.kills, steps=asked.steps, seed=asked.seed)
    kills = f"{asked.kills} kill{'s' * (asked.kills > 1)}"
    print(f"{kills}: {'the same files' if same else 'OTHER FILES'}")
    sys.exit(not same)


def torment(folder: Path, *, kills: int, steps: int, seed: int) -> bool:
    """Whether all batches that were killed hold the same files as one that was not."""
    manifest = write_manifest(folder, steps=steps)
    begun = time.perf_counter()
    assert ended(lambda: batch(manifest, folder / "whole")) == 0
    seconds = time.perf_counter() - begun
    whole, draw, same = files(folder / "whole"), random.Random(seed), True
    left = kills
    while left:
        out = folder / f"cut-{left}"
        for _ in range(min(left, KILLS_OF_A_BATCH)):
            after = draw.uniform(0, seconds)
            if ended(lambda out=out: batch(manifest, out), kill_after=after) != -signal.SIGKILL:
                continue  # it was whole before
            left -= 1
            there = len(list(out.glob("*.png")))
            print(f"killed after {after:.2f} of {seconds:.2f} s: {there} files of pictures")
        assert ended(lambda out=out: batch(manifest, out)) == 0
        other = {name for name, bits in files(out).items() if whole.get(name) != bits}
        other |= whole.keys() - files(out).keys()
        if other:
            print(f"{out.name}: {', '.join(sorted(other))}")
        same = same and not other
    return same


def write_manifest(folder: Path, *, steps: int) -> Path:
    """A manifest of sixteen shots, its base and its adapters."""
    base = tiny_sdxl(folder / "model")
    for name, seed in (("one", 1), ("two", 2)):
        write_lora(base, folder / f"{name}.safetensors", rank=4, alpha=4, seed=seed)
    manifest = folder / "faces.toml"
    manifest.write_text(MANIFEST.format(steps=steps))
    return manifest


def batch(manifest: Path, out: Path) -> None:
    cli.main(["batch", str(manifest), "--out", str(out), "--resume", "--json"])


def files(folder: Path) -> dict[str, bytes]:
    """What is in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def ended(work: Callable[[], None], *, kill_after: float | None = None) -> int:
    """The exit code of work done by a copy of this process, killed after so many seconds."""
    child = os.fork()
    if not child:
        _do(work)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _do(work: Callable[[], None]) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    try:
        work()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    finally:
        os._exit(1)  # after anything else


if __name__ == "__main__":
    main()
