"""How far are estimates from what trainings take? ``python -m tests.benchmarks.estimates``

Every kind is trained on sketch and on sketch-sd1 for a few steps as `studio train` does, each in a
process of its own that first says what it would take: as a first run, and afterwards as one that
knows an earlier run of its settings. Beside each stands what it took: the seconds from the first
picture to the adapter's file, and the most memory that the process had at a time. With
`--clock cpu` all seconds are the processor's, on both sides, for a machine that others use as well.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

BASES, KINDS = ("sketch", "sketch-sd1"), ("lora", "sara", "diffusekrona", "blora")
# What changes a step besides the kind, on sketch and with `lora`.
VARIANTS = {
    "batch 2": {"batch": 2},
    "192 pixels": {"size": 192},
    "checkpointing": {"checkpointing": True},
    "bfloat16": {"precision": "bf16"},
    "text encoders": {"text_encoders": True},
}
CLOCKS = ("wall", "cpu")
PICTURES = Path(__file__).parents[2] / "assets" / "examples" / "robot"


@dataclass(frozen=True)
class Compared:
    """What was said and what came. first, again: seconds said before and after an earlier run."""

    what: str
    first: float
    again: float
    seconds: float
    said: int
    bytes: int
    asking: float
    """seconds that the estimate itself took"""


def main() -> None:
    """Print the table of all trainings, or of those whose names have one of the words."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.estimates")
    parser.add_argument("words", nargs="*", help="such as sara, sketch-sd1, or bfloat16")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of a shared machine")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    everything = {f"{kind} on {base}": (kind, base, {}) for base in BASES for kind in KINDS}
    everything.pop("blora on sketch-sd1")  # of SD 1.x nobody showed that its blocks separate
    everything |= {f"lora, {name}": ("lora", "sketch", given) for name, given in VARIANTS.items()}
    if asked.alone:
        if asked.clock == "cpu":
            time.perf_counter = time.process_time  # before what is imported next takes its own
        what = asked.words[0]
        print(json.dumps(asdict(compare(what, *everything[what], steps=asked.steps))))
        return
    chosen = [w for w in everything if not asked.words or any(one in w for one in asked.words)]
    found = [_in_fresh_process(what, asked) for what in chosen]
    if asked.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    else:
        Console().print(_table(found, f"{asked.steps} steps on a CPU"))


def _in_fresh_process(what: str, asked: argparse.Namespace) -> Compared:
    command = [sys.executable, "-m", "tests.benchmarks.estimates", what, "--alone"]
    command += ["--steps", str(asked.steps), "--clock", asked.clock]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Compared(**json.loads(done.stdout.splitlines()[-1]))


def compare(what: str, kind: str, source: str, given: dict, *, steps: int) -> Compared:
    """One training in this process, and the estimates before and after."""
    import studio
    import trainers
    from ui.shared.training_run import draw_with

    base = studio.load_base(source, device="cpu")
    made = trainers.kinds()[kind]()
    options = {"steps": steps, **given}
    with tempfile.TemporaryDirectory() as folder:
        runs, count = Path(folder) / "runs", len(list(PICTURES.glob("*.png")))
        begun = time.perf_counter()
        first = trainers.estimate(made, base, pictures=count, runs=runs, **options)
        asking = time.perf_counter() - begun
        training = trainers.train(
            made,
            base,
            PICTURES,
            trigger="sks robot",
            run=runs / "one",
            draw=draw_with(base),
            save_every=0,
            **options,
        )
        next(training)  # checked, and what was checked is not said to take time
        begun = time.perf_counter()
        for _ in training:
            pass
        seconds = time.perf_counter() - begun
        again = trainers.estimate(made, base, pictures=count, runs=runs, **options)
    return Compared(
        what=what,
        first=first.seconds,
        again=again.seconds,
        seconds=seconds,
        said=first.bytes,
        bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        asking=asking,
    )


def _table(found: Sequence[Compared], title: str) -> Table:
    table = Table("training", "took", "said", "said again", "memory", "said", "asked", title=title)
    for one in found:
        table.add_row(
            one.what,
            f"{one.seconds:.1f} s",
            *(f"{said:.1f} s ({said / one.seconds - 1:+.0%})" for said in (one.first, one.again)),
            f"{one.bytes / 1e6:.0f} MB",
            f"{one.said / 1e6:.0f} MB ({one.said / one.bytes - 1:+.0%})",
            f"{one.asking:.1f} s",
        )
    return table


if __name__ == "__main__":
    main()
