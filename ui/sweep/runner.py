"""A sweep of trainings: what is missing of it is made here or on a Ray cluster, and it is told.

A training's folder is named by its settings. One that holds an adapter is finished and is not begun
again, one that holds a recipe is gone on with from its last checkpoint.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import trainers
from studio.errors import BadInput, Stopped
from studio.files import write_file
from studio.out_of_memory import is_out_of_memory
from studio.requests.training import TrainingRequest
from studio.training_log import LOG_FILE, parse_log
from ui.batch.manifest_lines import Problem, join_problems
from ui.cli.train import follow
from ui.shared.launched_processes import refuse_many
from ui.shared.loading import open_base
from ui.shared.ray_cluster import TaskFailure, connect
from ui.shared.terminal import print_facts, print_json, print_note, print_table, progress_bars
from ui.shared.training_run import SMOOTHED
from ui.sweep.sweep_file import ANY, Planned, read_sweep
from ui.worker.train_jobs import start_or_resume

if TYPE_CHECKING:
    from studio.bases.base import Base

# Of those, what a step and their number take.
COSTLY = ("steps", "batch", "accumulation")
__all__ = ["Sweep", "make_sweep", "plan_sweep", "tell_sweep"]


@dataclass(frozen=True)
class Sweep:
    """The trainings of a file, and the folder of their folders."""

    out: Path
    planned: tuple[Planned, ...]

    def folder(self, one: Planned) -> Path:
        """Of a training."""
        return self.out / one.request.name

    def adapter(self, one: Planned) -> Path:
        """Where a training leaves its adapter when it is finished."""
        return self.folder(one) / "adapter.safetensors"

    def missing(self) -> list[Planned]:
        """Those that are not finished."""
        return [one for one in self.planned if not self.adapter(one).is_file()]


def plan_sweep(
    file: Path, out: Path | None, loading: Mapping[str, object], *, resume: bool
) -> Sweep:
    """Read a sweep, and see where it goes. loading: how bases are opened, over what the file says.

    Raises BadInput for a file with mistakes, and for a folder that holds some of it already.
    """
    sweep = Sweep(out or Path("runs") / file.stem, read_sweep(file, loading))
    for place in (sweep.out, *sweep.out.parents):
        if place.exists() and not place.is_dir():
            raise BadInput(f"{place} is a file; --out is a folder.")
    if not resume and any(sweep.folder(one).exists() for one in sweep.planned):
        said = "holds trainings of this sweep: go on with them by --resume, or give another --out."
        raise BadInput(f"{sweep.out} {said}")
    return sweep


def tell_sweep(sweep: Sweep, *, as_json: bool) -> None:
    """Print what a sweep will take, without a step. Raises BadInput for what can't be trained."""
    left = sweep.missing()
    found = _expected(sweep, left, _Opened())
    facts = {"trainings": len(left), "finished already": len(sweep.planned) - len(left)}
    if as_json:
        seconds, size = (found.seconds, found.bytes) if found else (0.0, 0)
        print_json(facts | {"seconds": round(seconds, 1), "bytes": size})
        return
    print_facts("Sweep", facts | {"taking": found and f"{found}, one after another"})


def make_sweep(sweep: Sweep, *, ray: str | None, as_json: bool) -> int:
    """Do what is missing; the exit code: 0 when all are finished, 1 when some failed.

    ray: address of a cluster that is to do it. Raises BadInput before the first step for whatever
    can't be trained.
    """
    refuse_many(ray)
    left = sweep.missing()
    there = len(sweep.planned) - len(left)
    failed: dict[str, str] = {}
    try:
        failed |= _on_cluster(sweep, left, ray) if ray and left else _here(sweep, left)
    except (KeyboardInterrupt, Stopped):
        done = len(sweep.planned) - len(sweep.missing())
        said = f"{done} of {len(sweep.planned)} trainings are finished; --resume goes on"
        raise Stopped(said) from None
    made = len(sweep.planned) - there - len(failed)
    _tell(sweep, failed, {"made": made, "there already": there}, as_json=as_json)
    return 1 if failed else 0


class _Opened:
    """The base that was opened last, kept for the next training."""

    def __init__(self) -> None:
        self.wanted, self.base = None, None

    def __call__(self, source: str, loading: Mapping[str, object]) -> "Base":
        wanted = source, tuple(sorted(loading.items()))
        if self.base is None or wanted != self.wanted:
            self.base = None  # gone before the next one comes
            self.base, self.wanted = open_base(source, loading), wanted
        return self.base


def _expected(sweep: Sweep, left: Sequence[Planned], opened: _Opened) -> "trainers.Estimate | None":
    """What trainings take one after another, each looked at on its base; None without any.

    Raises BadInput that names all that can't be trained.
    """
    problems: list[Problem] = []
    known: dict[str, trainers.Estimate] = {}
    total: trainers.Estimate | None = None
    for one in left:
        request = one.request
        alike = {k: v for k, v in request.recipe.items() if k in COSTLY or k not in ANY}
        key = repr((request.kind, request.options, request.base, request.loading, alike))
        try:
            if key not in known:
                known[key] = _estimate(sweep, request, opened)
        except BadInput as error:
            problems.append(one.problem(str(error)))
            continue
        more = known[key]
        total = more if total is None else _sum(total, more)
    if problems:
        raise join_problems(problems)
    return total


def _estimate(sweep: Sweep, request: TrainingRequest, opened: _Opened) -> "trainers.Estimate":
    found = trainers.check(request)
    base = opened(request.base, request.loading)
    return trainers.estimate_request(request, base, pictures=len(found.examples), runs=sweep.out)


def _sum(one: "trainers.Estimate", other: "trainers.Estimate") -> "trainers.Estimate":
    return replace(
        one,
        seconds=one.seconds + other.seconds,
        bytes=max(one.bytes, other.bytes),
        known=one.known and other.known,
    )


def _here(sweep: Sweep, left: Sequence[Planned]) -> dict[str, str]:
    """Do trainings one after another; why some failed, by name."""
    failed: dict[str, str] = {}
    opened = _Opened()
    if found := _expected(sweep, left, opened):
        print_note(f"This will take {found}, {len(left)} trainings one after another.")
    for number, one in enumerate(left, start=1):
        request = one.request
        print_note(f"Training {number} of {len(left)}: {_said(sweep, one) or request.name}")
        try:
            said = f"Training {request.trigger!r}"
            follow(start_or_resume(replace(request, run=sweep.folder(one)), opened), said=said)
        except BadInput as error:
            failed[request.name] = str(error)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            failed[request.name] = "there was not enough memory"
        if request.name in failed:
            print_note(f"It failed: {failed[request.name]}")
    return failed


def _on_cluster(sweep: Sweep, left: Sequence[Planned], address: str) -> dict[str, str]:
    """Have a Ray cluster do trainings; why some failed, by name."""
    failed: dict[str, str] = {}
    device = left[0].request.loading.get("device")
    with connect(address, device=device) as cluster, progress_bars() as shown:
        _expected(sweep, left, _Opened())
        task = shown.add_task("Trainings", total=len(left))
        sweep.out.mkdir(parents=True, exist_ok=True)
        for one in left:
            cluster.add(one, _train, one.request, sweep.folder(one).absolute())
        for one, found in cluster.outcomes():
            if isinstance(found, TaskFailure):
                failed[one.request.name] = found.reason
            elif not sweep.adapter(one).is_file():
                failed[one.request.name] = (
                    f"its adapter is on another machine: {sweep.out} is to be one folder for all"
                )
            shown.advance(task)
    return failed


def _train(request: TrainingRequest, run: Path) -> None:
    """The task: a training, from wherever another worker may have left it."""
    if (run / "adapter.safetensors").is_file():
        return
    with closing(start_or_resume(replace(request, run=run), _open_again)) as progress:
        for _ in progress:
            pass


def _open_again(source: str, loading: Mapping[str, object]) -> "Base":
    return _still_open(source, tuple(sorted(loading.items())))


@lru_cache(maxsize=1)
def _still_open(source: str, loading: tuple[tuple[str, object], ...]) -> "Base":
    """A base stays open in its worker for the next training."""
    return open_base(source, dict(loading))


def _tell(
    sweep: Sweep, failed: Mapping[str, str], counts: Mapping[str, int], *, as_json: bool
) -> None:
    """Write results.jsonl and print it."""
    rows = list(_results(sweep, failed))
    sweep.out.mkdir(parents=True, exist_ok=True)
    write_file(
        sweep.out / "results.jsonl",
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(),
    )
    facts: dict[str, object] = {"out": str(sweep.out), **counts, "failed": len(failed)}
    if as_json:
        print_json(facts | {"runs": rows})
        return
    print_table(
        ("run", "settings", "loss", "file"),
        [
            (
                one.request.name,
                _said(sweep, one),
                "" if row["loss"] is None else f"{row['loss']:.4f}",
                row.get("reason") or sweep.adapter(one).name,
            )
            for one, row in zip(sweep.planned, rows, strict=True)
        ],
    )
    print_facts("Sweep", facts)


def _results(sweep: Sweep, failed: Mapping[str, str]) -> Iterator[dict[str, object]]:
    for one in sweep.planned:
        name = one.request.name
        row: dict[str, object] = {
            "run": name,
            "settings": {key: one.settings.get(key) for key in _varying(sweep)},
            "loss": _loss(sweep.folder(one)),
            "file": f"{name}/adapter.safetensors",
            "made": name not in failed,
        }
        yield row | ({"reason": failed[name]} if name in failed else {})


def _varying(sweep: Sweep) -> list[str]:
    """The fields by which the trainings differ."""
    names = dict.fromkeys(name for one in sweep.planned for name in one.settings)
    return [n for n in names if len({repr(one.settings.get(n)) for one in sweep.planned}) > 1]


def _said(sweep: Sweep, one: Planned) -> str:
    """By what a training differs from the others."""
    named = ((name, one.settings.get(name)) for name in _varying(sweep))
    return ", ".join(f"{name} {value}" for name, value in named if value is not None)


def _loss(run: Path) -> float | None:
    """The mean loss of a run's last steps; None where none was taken."""
    log = run / LOG_FILE
    lines = parse_log(log.read_bytes()).lines if log.is_file() else ()
    losses = [line["loss"] for line in lines[-SMOOTHED:]]
    return fmean(losses) if losses else None
