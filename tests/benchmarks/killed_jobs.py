"""Does a job survive kill -9, of anybody, at any moment? ``python -m tests.benchmarks.killed_jobs``

A training and a few pictures on `sketch-sd1` are queued in the workspace of a running `studio ui`,
and at a random step of the training the server, the worker that trains, the worker that draws, or
all of them at once are killed. A killed server is started again, and nothing else is done. When the
jobs have ended, adapter and pictures are compared, byte for byte, with those of a workspace where
nobody was killed, and the database is checked.

Each kill is a line in `--into`: the program may be cut, and goes on with the kills that are
missing.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from studio.dataset.folders import Folder
from studio.queue.client import get_job, list_jobs, list_workers
from studio.queue.job import Job
from studio.requests.shot import Shot
from studio.requests.training import TrainingRequest
from studio.workspace import (
    Workspace,
    delete_adapter,
    get_adapter,
    get_picture,
    list_adapters,
    list_pictures,
    open_workspace,
    read_log,
)
from tests.benchmarks.kills import free_port
from ui.shared.queue_requests import queue_pictures, queue_training

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[2]
VICTIMS = ("server", "train worker", "render worker", "all three")
STEPS, SAVE_EVERY, PICTURES = 40, 4, 4
PATIENCE = 1800.0  # seconds for the jobs to end, on however busy a machine
COLUMNS = ("killed", "at step", "went on from", "training", "adapter", "pictures", "database")


def main() -> None:
    """Kill so many times; exit with 1 where anything was lost."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.killed_jobs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--into", type=Path, default=ROOT / "build" / "killed-jobs.jsonl")
    asked = parser.parse_args()
    rows = read(asked.into)
    if len(rows) < asked.kills:
        with tempfile.TemporaryDirectory() as folder:
            space = open_workspace(Path(folder) / "space")
            with serving(space) as servers:
                whole = undisturbed(space, servers[-1])
                for number in range(len(rows), asked.kills):
                    rows.append(torment(space, servers, number, seed=asked.seed, whole=whole))
                    write(asked.into, rows[-1])
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for row in rows[: asked.kills]:
        print(f"| {' | '.join(str(row[name]) for name in COLUMNS)} |")
    sys.exit(not all(row["whole"] for row in rows))


def undisturbed(space: Workspace, server: subprocess.Popen) -> dict[str, str]:
    """What comes of the jobs where nobody is killed: what each thing is, and its bytes' SHA-256."""
    jobs = queue(space)
    wait(space, jobs, server)
    whole = results(space, jobs)
    assert len(whole) == 1 + PICTURES, "the jobs fail where nobody is killed"
    forget(space)
    return whole


def torment(
    space: Workspace,
    servers: list[subprocess.Popen],
    number: int,
    *,
    seed: int,
    whole: dict[str, str],
) -> dict[str, object]:
    """Kill somebody at a random step of a training; what became of it, as a row of the table."""
    victim = VICTIMS[number % len(VICTIMS)]
    at = random.Random(f"{seed}-{number}").randrange(1, STEPS - 1)
    jobs = queue(space)
    while (step := get_job(space, jobs[0]).step) < at:
        time.sleep(0.005)
    victims = pids(space, servers[-1], victim)
    for pid in victims:
        with suppress(ProcessLookupError):  # a worker of an earlier server's, just done
            os.kill(pid, signal.SIGKILL)
    if servers[-1].pid in victims:
        servers[-1].wait()
        servers.append(start(space))
    again = next_step(space, jobs[0], step)
    wait(space, jobs, servers[-1])
    found = row(space, jobs, victim, (step, again), whole)
    forget(space)
    return found


def forget(space: Workspace) -> None:
    """Take the adapter out of the library: the next one of the same bytes would be the same."""
    for adapter in list_adapters(space):
        delete_adapter(space, adapter.name)


def row(
    space: Workspace, jobs: Sequence[int], victim: str, steps: tuple[int, int], whole: dict
) -> dict[str, object]:
    """How a kill ended, in words; `whole` where nothing was lost and nothing is other."""
    found, training = results(space, jobs), get_job(space, jobs[0])
    same = {name for name, sum_ in found.items() if whole.get(name) == sum_}
    drawn = sum(name.startswith("picture") for name in same)
    ended = all(job.state == "done" for job in list_jobs(space))
    logged = [line["step"] for line in read_log(space, training.run).lines]
    sound = integrity(space)
    drawings = list_jobs(space, kinds=("batch",))
    extra = len(list_pictures(space, limit=1000)) - PICTURES * len(drawings)
    return {
        "killed": victim,
        "at step": steps[0],
        "went on from": steps[1],
        "training": f"{training.state}, {len(logged)} steps",
        "adapter": "same bytes" if "adapter" in same else "OTHER",
        "pictures": f"{drawn} of {PICTURES} the same",
        "database": sound,
        "whole": same == whole.keys() == found.keys()
        and ended
        and logged == list(range(1, STEPS + 1))
        and sound == "ok"
        and not extra
        and len(list_adapters(space)) == 1,
    }


def queue(space: Workspace) -> list[int]:
    """Queue the training and the pictures; the jobs' numbers."""
    training = queue_training(
        space,
        TrainingRequest(
            "lora",
            "sks robot",
            (Folder(ROOT / "assets" / "examples" / "robot"),),
            base="sketch-sd1",
            options={"rank": 4},
            recipe={"steps": STEPS, "batch": 1, "save_every": SAVE_EVERY, "seed": 3},
        ),
    )
    shots = [Shot("a red robot", base="sketch-sd1", seed=seed) for seed in range(PICTURES)]
    return [training.id, queue_pictures(space, shots, kind="batch").id]


def results(space: Workspace, jobs: Sequence[int]) -> dict[str, str]:
    """The SHA-256 of the adapter's and of each picture's file."""
    training, drawing = (get_job(space, job) for job in jobs)
    files = {f"picture {n}": get_picture(space, id).path for n, id in enumerate(drawing.results)}
    if training.results:
        files["adapter"] = get_adapter(space, training.results[0]).path
    return {name: sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def integrity(space: Workspace) -> str:
    """What SQLite says of its file: "ok" where nothing is wrong."""
    with closing(sqlite3.connect(space.database)) as db:
        return str(db.execute("PRAGMA integrity_check").fetchone()[0])


def wait(space: Workspace, jobs: Sequence[int], server: subprocess.Popen) -> list[Job]:
    """The jobs, once all of them have ended; the server must not end before them."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        found = [get_job(space, job) for job in jobs]
        if all(job.state not in ("queued", "running") for job in found):
            return found
        if server.poll() is not None:
            raise SystemExit(f"the server of {space.root} ended by itself")
        time.sleep(0.1)
    raise SystemExit(f"the jobs of {space.root} do not end")


def next_step(space: Workspace, id: int, before: int) -> int:
    """The step that the training is at when it is next heard of: its checkpoint's, or a later."""
    until, seen = time.monotonic() + PATIENCE, before
    while time.monotonic() < until:
        job = get_job(space, id)
        if job.step != seen or job.state not in ("queued", "running"):
            return job.step
        time.sleep(0.005)
    raise SystemExit(f"the training of {space.root} does not go on")


def pids(space: Workspace, server: subprocess.Popen, victim: str) -> list[int]:
    """The processes to kill."""
    workers = {f"{one.queue} worker": one.pid for one in list_workers(space) if one.pid}
    everybody = {"server": server.pid, **workers}
    return list(everybody.values()) if victim == "all three" else [everybody[victim]]


@contextmanager
def serving(space: Workspace) -> Iterator[list[subprocess.Popen]]:
    """Servers, the last of them alive; it is ended as by Ctrl-C, and its workers with it."""
    servers = [start(space)]
    try:
        yield servers
    finally:
        servers[-1].send_signal(signal.SIGINT)
        servers[-1].wait()


def start(space: Workspace) -> subprocess.Popen:
    """A server of its own."""
    words = ["ui", "--port", str(free_port()), "--workspace", str(space.root)]
    return subprocess.Popen(
        [sys.executable, "-m", "ui.cli", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def read(file: Path) -> list[dict]:
    """The rows that an earlier run of this program left."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def write(file: Path, row: dict[str, object]) -> None:
    """Put a row behind those that are there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        lines.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
