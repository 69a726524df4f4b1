"""Is a batch that is killed the same batch in the end? ``python -m tests.benchmarks.kills``

A batch on a tiny random SDXL, in groups of two shots, is killed as by `kill -9` at random moments
of its work and gone on with, until it is whole; its files are then compared, byte for byte, with
those of a batch that nobody disturbed.
"""

import argparse
import os
import random
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

import compose.engine.evaluate
from tests.compose.conftest import write_lora
from tests.tiny import tiny_sdxl
from ui import cli

__all__ = ["main", "write_manifest"]

KILLS_OF_A_BATCH = 3  # at most, before it is left to end
TWO_SHOTS = 4 * 64  # their rows of 8 x 8 latents
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
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6, help="denoising steps of each picture")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    compose.engine.evaluate.MOST_ON_CPU = TWO_SHOTS
    with tempfile.TemporaryDirectory() as folder:
        same = torment(Path(folder), asked)
    kills = f"{asked.kills} kill{'s' * (asked.kills > 1)}"
    print(f"{kills}: {'the same files' if same else 'OTHER FILES'}")
    sys.exit(not same)


def torment(folder: Path, asked: argparse.Namespace) -> bool:
    """Whether all batches that were killed hold the same files as one that was not."""
    manifest = write_manifest(folder, steps=asked.steps)
    begun = time.perf_counter()
    assert ended(manifest, folder / "whole", processes=1) == 0
    seconds = time.perf_counter() - begun
    whole, draw, same = files(folder / "whole"), random.Random(asked.seed), True
    left = asked.kills
    while left:
        out = folder / f"cut-{left}"
        for _ in range(min(left, KILLS_OF_A_BATCH)):
            after = draw.uniform(0, seconds)
            if ended(manifest, out, processes=asked.processes, kill_after=after) == 0:
                continue  # it was whole before
            left -= 1
            there = len(list(out.glob("*.png")))
            print(f"killed after {after:.2f} of {seconds:.2f} s: {there} files of pictures")
        assert ended(manifest, out, processes=asked.processes) == 0
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


def files(folder: Path) -> dict[str, bytes]:
    """What is in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def ended(manifest: Path, out: Path, *, processes: int, kill_after: float | None = None) -> int:
    """The exit code of the first copy of this process that does not end well, or 0.

    kill_after: seconds after which one of them is killed, and the others with it, as a launcher
    does.
    """
    port = free_port()
    children = [fork(manifest, out, number, processes, port) for number in range(processes)]
    if kill_after is not None:
        time.sleep(kill_after)
        for child in reversed(children):
            os.kill(child, signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return next((code for code in codes if code), 0)


def fork(manifest: Path, out: Path, number: int, processes: int, port: int) -> int:
    """A copy of this process, as `torchrun` would start it, that makes its share of a batch."""
    child = os.fork()
    if child:
        return child
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    told = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": processes}
    told |= {"MASTER_PORT": port, "LOCAL_WORLD_SIZE": processes, "OMP_NUM_THREADS": 1}
    if processes > 1:
        os.environ |= {key: str(value) for key, value in told.items()}
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    AcceleratorState._reset_state(reset_partial_state=True)  # where the first has trained already
    code = 1  # after anything but an end of its own
    try:
        cli.main(["batch", str(manifest), "--out", str(out), "--resume", "--json"])
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os._exit(code)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


if __name__ == "__main__":
    main()
