"""Does work survive kills, full disks and company? ``python -m tests.benchmarks.trouble``

`studio train` and `studio batch` on a tiny random SDXL are, so many times each,

- killed as by `kill -9` at a random moment, and gone on with;
- left without room on the disk at a random moment, which has to end in a sentence and exit code 2,
  and gone on with when there is room again;
- begun by three processes at once in one folder: one goes through, the others are told so.

What comes out in the end is compared, byte for byte, with what comes out undisturbed. Needs Linux's
`unshare`, which gives this program a small disk of its own. tests/benchmarks/kills.py kills several
processes of one batch, tests/benchmarks/killed_jobs.py a server and its workers.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.benchmarks.kills import write_manifest
from ui import cli

__all__ = ["main"]

DISK = 48 * 2**20  # bytes
OWN_DISK = "STUDIO_TROUBLE_DISK"
TRACE = "Traceback (most recent call last)"


def main() -> None:
    """Trouble so many times; exit with 1 where anything was lost or not said."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.trouble",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--times", type=int, default=10, help="of each trouble")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    asked = parser.parse_args()
    if OWN_DISK not in os.environ:
        own = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        command = [*own, sys.executable, "-m", "tests.benchmarks.trouble", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=os.environ | {OWN_DISK: "1"}).returncode)
    torch.set_num_threads(1)
    draw, sound = random.Random(asked.seed), True
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", f"-osize={DISK}", "studio", folder], check=True)
        try:
            for work in works(Path(folder)):
                for trouble in (kill, fill, crowd):
                    ends = [trouble(work, draw) for _ in range(asked.times)]
                    bad = [end for end in ends if end]
                    sound = sound and not bad
                    told = f"{len(ends) - len(bad)} of {len(ends)} ended as undisturbed"
                    print(f"{work.name}, {trouble.__name__}: {told}", *bad, sep="\n  ", flush=True)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
    sys.exit(not sound)


@dataclass
class Work:
    """A command that is done again and again. begin, go_on: its words. made: what it makes."""

    name: str
    out: Path
    begin: list[str]
    go_on: list[str]
    begun: Callable[[], bool]
    made: Callable[[Path], dict[str, bytes]]
    seconds: float = 0.0
    whole: dict[str, bytes] | None = None

    def words(self) -> list[str]:
        return self.go_on if self.begun() else self.begin

    def difference(self) -> str:
        """What was made, compared with what is made undisturbed; then it is removed."""
        found = self.made(self.out)
        assert self.whole is not None
        names = {*found, *self.whole}
        other = sorted(name for name in names if found.get(name) != self.whole.get(name))
        shutil.rmtree(self.out)
        return f"other files: {', '.join(other)}" if other else ""


def works(folder: Path) -> list[Work]:
    """A training and a batch, each done once undisturbed."""
    manifest = write_manifest(folder, steps=4)
    photos = folder / "photos"
    photos.mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(photos / f"{number}.png")
    run, pictures = folder / "run", folder / "pictures"
    recipe = ["--steps", "12", "--batch", "1", "--rank", "2", "--save-every", "2"]
    train = ["train", "lora", str(photos), "--trigger", "sks", "--base", str(folder / "model")]
    batch = ["batch", str(manifest), "--out", str(pictures)]
    found = [
        Work(
            "train",
            run,
            [*train, *recipe, "--run", str(run), "--out", str(run / "out.safetensors")],
            ["train", "lora", "--resume", str(run)],
            lambda: (run / "recipe.toml").exists(),
            lambda out: {"adapter": (out / "adapter.safetensors").read_bytes()},
        ),
        Work(
            "batch",
            pictures,
            batch,
            [*batch, "--resume"],
            lambda: (pictures / "batch.json").exists(),
            lambda out: {path.name: path.read_bytes() for path in out.iterdir()},
        ),
    ]
    for work in found:
        begun = time.perf_counter()
        code, said = ended(start(work.words()))
        assert code == 0, said
        work.seconds = time.perf_counter() - begun
        work.whole = work.made(work.out)
        shutil.rmtree(work.out)
    return found


def kill(work: Work, draw: random.Random) -> str:
    """Kill it up to three times, and let it end. Says what is other than undisturbed."""
    for _ in range(3):
        if is_done(work):
            break
        child = start(work.words())
        time.sleep(draw.uniform(0, work.seconds))
        os.kill(child.pid, signal.SIGKILL)
        ended(child)
    if not is_done(work):
        code, said = ended(start(work.words()))
        if code:
            return f"exit code {code}: {said}"
    return work.difference()


def fill(work: Work, draw: random.Random) -> str:
    """Fill the disk at a random moment, make room when it has ended, and let it go on."""
    child = start(work.words())
    time.sleep(draw.uniform(0, work.seconds))
    filling = work.out.parent / "filling"
    with filling.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
    code, said = ended(child)
    filling.unlink()
    if code not in (0, 1, 2) or TRACE in said or (code and not said.strip()):
        return f"without room exit code {code}: {said[-400:]}"
    if not is_done(work):
        code, said = ended(start(work.words()))
        if code:
            return f"with room again exit code {code}: {said[-400:]}"
    return work.difference()


def crowd(work: Work, draw: random.Random) -> str:
    """Begin it three times at once in one folder; one goes through."""
    children = [start(work.begin)]
    for _ in range(2):
        time.sleep(draw.uniform(0, 0.2 * work.seconds))
        children.append(start(work.begin))
    ends = [ended(child) for child in children]
    codes = sorted(code for code, _ in ends)
    if codes != [0, 2, 2] or any(TRACE in said for _, said in ends):
        return f"three at once: exit codes {codes}: {[said[-200:] for _, said in ends]}"
    return work.difference()


def is_done(work: Work) -> bool:
    """Whether there is nothing left to do: a finished training is not resumed."""
    return work.name == "train" and (work.out / "adapter.safetensors").exists()


@dataclass
class Child:
    """A copy of this process at a command. said: what it says to stderr."""

    pid: int
    said: Path


def start(words: Sequence[str]) -> Child:
    """Run a command in a copy of this process, which has all modules already."""
    handle, said = tempfile.mkstemp(dir="/dev/shm")
    child = os.fork()
    if child:
        os.close(handle)
        return Child(child, Path(said))
    os.dup2(handle, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    code = 1
    try:
        cli.main([*words, "--json"])
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: Child) -> tuple[int, str]:
    """Its exit code, and what it said last."""
    code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    said = child.said.read_text(errors="replace")
    child.said.unlink()
    return code, said.replace("\r", "\n")


if __name__ == "__main__":
    main()
