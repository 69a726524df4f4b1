"""Runs a sweep of trainings, here or on a Ray cluster, and prints its results.

A training's folder is named after its settings. If the folder has an adapter, the training is
finished. If it has only a recipe, the training is resumed from its last checkpoint.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from threading import Event
from typing import TYPE_CHECKING, Any

import trainers
from studio.errors import BadInput, Stopped, join_errors
from studio.files import check_folder_writable, write_file
from studio.out_of_memory import is_out_of_memory
from studio.requests.training import TrainingRequest
from studio.training_log import LOG_FILE, parse_log
from ui.batch.manifest_lines import Problem
from ui.cli.training.train import follow
from ui.shared.folder_lock import only_process
from ui.shared.grid import differing
from ui.shared.launched_processes import refuse_many
from ui.shared.loading import BaseCache
from ui.shared.ray_cluster import TaskFailure, connect
from ui.shared.terminal import print_note, print_outcome, print_table, progress_bars
from ui.shared.training_run import SMOOTHED, interrupt_if
from ui.sweep.sweep_file import CHECKED_ALIKE, PlannedRun, read_sweep
from ui.worker.train_jobs import start_or_resume

if TYPE_CHECKING:
    from studio.bases.base import Base

COSTLY = ("steps", "batch", "accumulation")  # fields of CHECKED_ALIKE that affect the cost


@dataclass(frozen=True)
class Checked:
    """The result of the checks before the first training.

    cost: None if there is nothing to train. remarks: on files that are left out of the folders.
    """

    cost: "trainers.Estimate | None"
    remarks: tuple[str, ...]

    def print_remarks(self) -> None:
        for remark in self.remarks:
            print_note(remark)


@dataclass(frozen=True)
class Sweep:
    """The trainings of a file. out: the folder of their run folders."""

    out: Path
    planned: tuple[PlannedRun, ...]

    def folder(self, run: PlannedRun) -> Path:
        return self.out / run.request.name

    def adapter(self, run: PlannedRun) -> Path:
        """The file of a finished training."""
        return self.folder(run) / "adapter.safetensors"

    def missing(self) -> list[PlannedRun]:
        """The trainings that are not finished."""
        return [run for run in self.planned if not self.adapter(run).is_file()]

    def varied(self) -> dict[str, dict[str, object]]:
        """By training, the settings that differ between trainings; None means not given."""
        none = {name: None for run in self.planned for name in run.settings}
        settings = {run.request.name: {**none, **run.settings} for run in self.planned}
        varied = differing(list(settings.values()))
        return {run: {name: own[name] for name in varied} for run, own in settings.items()}


def plan_sweep(
    file: Path, out: Path | None, loading: Mapping[str, object], *, resume: bool
) -> Sweep:
    """Read a sweep and choose its folder.

    loading: fields of Loading, which override those of the file. Raises BadInput for a file with
    mistakes, and for a folder that has some of its trainings.
    """
    sweep = Sweep(out or Path("runs") / file.stem, read_sweep(file, loading))
    check_folder_writable(sweep.out)
    if not resume and any(sweep.folder(run).exists() for run in sweep.planned):
        raise BadInput(
            f"{sweep.out} holds trainings of this sweep: go on with them by --resume, or give "
            "another --out."
        )
    return sweep


def print_cost(sweep: Sweep, *, as_json: bool) -> None:
    """Print a sweep's cost and the files left out. Raises BadInput for impossible trainings."""
    missing = sweep.missing()
    checked = _check_and_estimate(sweep, missing, BaseCache())
    cost = checked.cost
    if not as_json:
        checked.print_remarks()
    seconds, size = (cost.seconds, cost.bytes) if cost else (0.0, 0)
    counts = {"trainings": len(missing), "finished already": len(sweep.planned) - len(missing)}
    facts = {"seconds": round(seconds, 1), "bytes": size, "left_out": list(checked.remarks)}
    shown = dict.fromkeys(facts) | {"taking": cost and f"{cost}, one after another"}
    print_outcome("Sweep", counts | facts, as_json=as_json, shown=shown)


def run_sweep(sweep: Sweep, *, ray: str | None, as_json: bool) -> int:
    """Run the missing trainings. Returns the exit code: 0, or 1 if some failed.

    ray: the address of a cluster to train on. Raises BadInput before the first step for trainings
    that are not possible.
    """
    refuse_many(ray)
    missing = sweep.missing()
    existing = len(sweep.planned) - len(missing)
    try:
        with only_process(sweep.out):
            if ray and missing:
                failed = _train_on_cluster(sweep, missing, ray)
            else:
                failed = _train(sweep, missing)
    except (KeyboardInterrupt, Stopped):
        done = len(sweep.planned) - len(sweep.missing())
        raise Stopped(
            f"{done} of {len(sweep.planned)} trainings are finished; --resume goes on"
        ) from None
    made = len(missing) - len(failed)
    counts = {"made": made, "there already": existing, "failed": len(failed)}
    rows = _write_results(sweep, failed)
    if not as_json:
        _print_results(rows)
    facts = {"out": str(sweep.out), **counts, "runs": rows}
    print_outcome("Sweep", facts, as_json=as_json, shown={"runs": None})
    return 1 if failed else 0


def _check_and_estimate(sweep: Sweep, runs: Sequence[PlannedRun], bases: BaseCache) -> Checked:
    """Check each training on its base, and add up what they take one after another.

    Raises BadInput that names all trainings that are not possible.
    """
    problems: list[Problem] = []
    known: dict[str, trainers.Estimate] = {}
    costs: list[trainers.Estimate] = []
    remarks: dict[str, None] = {}
    for run in runs:
        request = run.request
        recipe = request.recipe.items()
        relevant = {k: v for k, v in recipe if k in COSTLY or k not in CHECKED_ALIKE}
        key = repr((request.kind, request.options, request.base, request.loading, relevant))
        try:
            if key not in known:
                pictures = trainers.check(request)
                remarks |= dict.fromkeys(pictures.remarks())
                opened = bases.open(request.base, request.loading)
                known[key] = _estimate(sweep, request, opened, pictures=len(pictures.examples))
                del opened  # so that it is freed before the next is opened
            costs.append(known[key])
        except BadInput as error:
            problems.append(run.problem(str(error)))
    if problems:
        raise join_errors(problems)
    return Checked(_sum(costs) if costs else None, tuple(remarks))


def _estimate(
    sweep: Sweep, request: TrainingRequest, base: "Base", *, pictures: int
) -> "trainers.Estimate":
    return trainers.estimate_request(request, base, pictures=pictures, runs=sweep.out)


def _sum(costs: Sequence["trainers.Estimate"]) -> "trainers.Estimate":
    return replace(
        costs[0],
        seconds=sum(one.seconds for one in costs),
        bytes=max(one.bytes for one in costs),
        source=max((one.source for one in costs), key=("same", "similar", "measured").index),
    )


def _train(sweep: Sweep, runs: Sequence[PlannedRun]) -> dict[str, str]:
    """Run the trainings one after another. Returns the reasons of failed ones, by name."""
    failed: dict[str, str] = {}
    bases, varied = BaseCache(), sweep.varied()
    checked = _check_and_estimate(sweep, runs, bases)
    checked.print_remarks()
    if checked.cost:
        several = f", {len(runs)} trainings one after another" if len(runs) > 1 else ""
        print_note(f"This will take {checked.cost}{several}.")
    for number, run in enumerate(runs, start=1):
        name, request = run.request.name, replace(run.request, run=sweep.folder(run))
        print_note(f"Training {number} of {len(runs)}: {_in_words(varied[name]) or name}")
        try:
            stop = Event()
            steps = start_or_resume(request, bases.open, between=partial(interrupt_if, stop))
            follow(steps, title=f"Training {request.title!r}", stop=stop)
        except BadInput as error:
            failed[name] = str(error)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            failed[name] = "there was not enough memory"
        if name in failed:
            print_note(f"It failed: {failed[name]}")
    return failed


def _train_on_cluster(sweep: Sweep, runs: Sequence[PlannedRun], address: str) -> dict[str, str]:
    """Run the trainings on a Ray cluster. Returns the reasons of failed ones, by name."""
    failed: dict[str, str] = {}
    device = runs[0].request.loading.get("device")
    with connect(address, device=device) as cluster, progress_bars() as bars:
        _check_and_estimate(sweep, runs, BaseCache()).print_remarks()
        bar = bars.add_task("Trainings", total=len(runs))
        sweep.out.mkdir(parents=True, exist_ok=True)
        for run in runs:
            cluster.add(run, _train_task, run.request, sweep.folder(run).absolute())
        for run, result in cluster.outcomes():
            if isinstance(result, TaskFailure):
                failed[run.request.name] = result.reason
            elif not sweep.adapter(run).is_file():
                failed[run.request.name] = (
                    f"its adapter is on another machine: {sweep.out} must be one folder for all"
                )
            bars.advance(bar)
    return failed


_worker_bases = BaseCache()  # a base stays open in its Ray worker for the next training


def _train_task(request: TrainingRequest, folder: Path) -> None:
    """The Ray task: run a training, or finish one that another worker has begun."""
    if (folder / "adapter.safetensors").is_file():
        return
    request = replace(request, run=folder)
    with closing(start_or_resume(request, _worker_bases.open)) as progress:
        for _ in progress:
            pass


def _write_results(sweep: Sweep, failed: Mapping[str, str]) -> list[dict[str, object]]:
    """Write results.jsonl, and return its rows."""
    rows: list[dict[str, object]] = []
    for name, settings in sweep.varied().items():
        row: dict[str, object] = {
            "run": name,
            "settings": settings,
            "loss": _last_loss(sweep.out / name),
            "file": f"{name}/adapter.safetensors",
            "made": name not in failed,
        }
        rows.append(row | ({"reason": failed[name]} if name in failed else {}))
    sweep.out.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_file(sweep.out / "results.jsonl", lines.encode())
    return rows


def _print_results(rows: Sequence[Mapping[str, Any]]) -> None:
    lines = []
    for row in rows:
        loss = "" if row["loss"] is None else f"{row['loss']:.4f}"
        file = row.get("reason", "adapter.safetensors")
        lines.append((row["run"], _in_words(row["settings"]), loss, file))
    print_table(("run", "settings", "loss", "file"), lines)


def _in_words(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)


def _last_loss(run: Path) -> float | None:
    """The mean loss of a run's last steps; None if there was no step."""
    log = run / LOG_FILE
    lines = parse_log(log.read_bytes()).lines if log.is_file() else ()
    losses = [line["loss"] for line in lines[-SMOOTHED:]]
    return fmean(losses) if losses else None
