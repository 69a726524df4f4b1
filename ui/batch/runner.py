"""Makes the missing pictures of a batch.

A picture's name depends on its shot alone, and its bits on the shot's group, which depends on the
manifest and the folder's record alone. So on a CPU, if some pictures of a group are missing, the
whole group is made again and only the missing pictures are written: the folder ends with the same
files wherever the batch was interrupted. On a GPU, where bits differ from run to run, only the
missing pictures are made.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import compose
from compose.engine.batch.groups import pixels
from studio.errors import BadInput, join_errors
from studio.files import atomic_write, remove_partial_files, write_file
from studio.requests.picture_file import open_picture, save_picture
from studio.requests.resolved_shot import with_size
from studio.requests.shot import Shot
from studio.requests.shot_recipe import shot_to_dict
from ui.batch.compatibility import Check, find_problems, method_check, size_checks
from ui.batch.contact_sheet import write_sheets
from ui.batch.folder_record import Record
from ui.batch.manifest import PlannedShot
from ui.batch.manifest_lines import Problem
from ui.batch.plan import Plan
from ui.batch.ray_groups import GroupResult, GroupTask, run_tasks
from ui.shared.launched_processes import SINGLE_PROCESS, ProcessGroup
from ui.shared.loading import BaseCache
from ui.shared.ray_cluster import connect

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter
    from studio.bases.base import Base


# The files of a batch besides its pictures.
OWN = re.compile(r"batch\.json|results\.jsonl|sheet\.html|sheet(-\d+)?\.png")


@dataclass(frozen=True)
class PictureWritten:
    """A picture is written. at: its shot's place in the plan."""

    at: int
    path: Path


@dataclass(frozen=True)
class PictureFailed:
    """A shot can't be made; the other shots go on. reason: one sentence."""

    at: int
    reason: str


Event = PictureWritten | PictureFailed | compose.GroupStep


def run_batch(
    plan: Plan,
    loading: Mapping[str, object],
    processes: ProcessGroup = SINGLE_PROCESS,
    *,
    ray: str | None = None,
) -> Iterator[Event]:
    """Make a plan's missing pictures, then write results.jsonl, sheet.html and sheet.png.

    loading: fields of ui.shared.loading.Loading, by name. To stop, stop iterating (`close`); every
    PictureWritten has its file, and another run of the same plan makes the rest. processes: each
    rank makes its part of the groups; rank 0 writes all other files. ray: the address of a cluster
    that makes the pictures; the groups are decided here.

    Raises BadInput before the first picture for shots that can't be made on their base.
    """
    failed: dict[int, str] = {}
    plan.out.mkdir(parents=True, exist_ok=True)
    if processes.is_first:
        names = set(plan.names)
        remove_partial_files(plan.out, lambda name: name in names or bool(OWN.fullmatch(name)))
    if plan.missing():
        run = _BatchRun(plan, loading)
        for event in run.events(processes) if ray is None else run.events_from(ray):
            if isinstance(event, PictureFailed):
                failed[event.at] = event.reason
            yield event
    failed = processes.gather(failed)
    if processes.is_first:
        _write_results(plan, failed)
        shots = [one.shot for one in plan.planned]
        write_sheets(plan.out, plan.manifest.path.name, shots, plan.names, failed)


def expect_batch(plan: Plan, loading: Mapping[str, object]) -> compose.BatchEstimate:
    """The cost of a plan's missing pictures, measured on this machine; nothing is written.

    Raises BadInput as run_batch does.
    """
    run = _BatchRun(plan, loading)
    run.check_on_bases()
    sizes = run.batch_sizes(keep=False)
    missing = set(plan.missing())
    costs = [run.estimate(source, sizes[source], missing) for source in plan.sources]
    return compose.BatchEstimate(
        sum(one.evaluations for one in costs), sum(one.seconds for one in costs)
    )


class _BatchRun:
    """One run over the missing pictures.

    Only one base is open at a time, so no method may hold a base while another one is opened.
    """

    def __init__(self, plan: Plan, loading: Mapping[str, object]) -> None:
        self.plan, self.loading = plan, loading
        self.record, self._bases = Record(plan.out), BaseCache()
        # By base, once it was checked: its facts, and its shots with their sizes.
        self.facts: dict[str, dict[str, str]] = {}
        self.shots: dict[str, list[Shot]] = {}

    def events(self, processes: ProcessGroup) -> Iterator[Event]:
        """Render the groups of this process."""
        self.check_on_bases()
        missing = set(self.plan.missing())  # the same in all processes, as none has begun
        if processes.is_first:
            self.batch_sizes(keep=True)
        processes.wait()
        sizes = self.batch_sizes(keep=False)
        for source in self.plan.sources:
            if not missing.isdisjoint(self.plan.of_base(source)):
                yield from self._render_missing(source, sizes[source], missing, processes)

    def events_from(self, address: str) -> Iterator[Event]:
        """Render on a Ray cluster."""
        with connect(address, device=self.loading.get("device")) as cluster:
            tasks = list(self.tasks())
            for reply in run_tasks(tasks, self.loading, cluster):
                yield from self._write_result(reply)

    def tasks(self) -> Iterator[GroupTask]:
        """A task for each group with missing pictures."""
        self.check_on_bases()
        missing = set(self.plan.missing())
        sizes = self.batch_sizes(keep=True)
        for source in self.plan.sources:
            places = self.plan.of_base(source)
            for group in self.groups(source, sizes[source], missing):
                wanted = [number for number in group.numbers if places[number] in missing]
                yield GroupTask(source, self.shots[source], group, wanted)

    def _write_result(self, reply: GroupResult) -> Iterator[Event]:
        task, places = reply.task, self.plan.of_base(reply.task.source)
        for number in task.wanted:
            if number in reply.reasons:
                yield PictureFailed(places[number], reply.reasons[number])
            elif number in reply.pictures:
                path = self.plan.out / self.plan.names[places[number]]
                write_file(path, reply.pictures[number])
                yield PictureWritten(places[number], path)

    def open(self, source: str) -> "Base":
        return self._bases.open(source, self.loading)

    def check_on_bases(self) -> None:
        """Check every shot on its opened base. Raises BadInput that names all problems."""
        problems = [one for source in self.plan.sources for one in self._check_on(source)]
        if problems:
            raise join_errors(problems)

    def _check_on(self, source: str) -> list[Problem]:
        base = self.open(source)
        planned = [self.plan.planned[at] for at in self.plan.of_base(source)]
        problems = list(_problems(base, planned, self._bases.adapters))
        self.facts[source] = _facts(base)
        self.shots[source] = [] if problems else [with_size(one.shot, base) for one in planned]
        return problems

    def batch_sizes(self, *, keep: bool) -> dict[str, dict[str, int]]:
        """The batch sizes of each base, from the record, or measured now.

        keep: write measured sizes into the record.
        """
        known = self.record.read() if self.record.there else {}
        for source, (facts, _) in known.items():
            now = self.facts.get(source, facts)
            if any(now[name] != then for name, then in facts.items()):
                raise BadInput(
                    f"{self.plan.out} was begun on another {source}, with another VAE or in "
                    f"another precision ({_precision(facts)}): give another --out."
                )
        updated = dict(known)
        for source in self.plan.sources:
            _, sizes = known.get(source, ({}, dict[str, int]()))
            if new := [one for one in self.shots[source] if pixels(one) not in sizes]:
                updated[source] = self.facts[source], sizes | self._measure(source, new)
        if keep and updated != known:
            self.record.write(updated)
        return {source: sizes for source, (_, sizes) in updated.items()}

    def _measure(self, source: str, shots: Sequence[Shot]) -> dict[str, int]:
        return compose.batch_sizes(self.open(source), shots, self._bases.adapters)

    def estimate(
        self, source: str, sizes: Mapping[str, int], missing: set[int]
    ) -> compose.BatchEstimate:
        """The cost of a base's missing pictures."""
        base = self.open(source)
        groups = self.groups(source, sizes, missing, whole=_repeats(base))
        return compose.estimate_batch(base, self.shots[source], groups, self._bases.adapters)

    def groups(
        self, source: str, sizes: Mapping[str, int], missing: set[int], *, whole: bool = True
    ) -> list[compose.Group]:
        """The groups of a base with missing pictures; with whole=False, only the missing shots."""
        places = self.plan.of_base(source)
        groups = []
        for group in compose.group_shots(self.shots[source], sizes):
            left = tuple(at for at in group.numbers if places[at] in missing)
            if left:
                groups.append(group if whole else replace(group, numbers=left))
        return groups

    def _render_missing(
        self, source: str, sizes: Mapping[str, int], missing: set[int], processes: ProcessGroup
    ) -> Iterator[Event]:
        """Make a base's missing pictures; one is written while the next ones are made."""
        base, places, shots = self.open(source), self.plan.of_base(source), self.shots[source]
        left = self.groups(source, sizes, missing, whole=_repeats(base))
        groups = processes.split(left)
        with ThreadPoolExecutor(1, thread_name_prefix="write") as thread:
            saves: dict[int, Future[Path]] = {}

            def save(made: compose.Made) -> None:
                if (at := places[made.number]) in missing:
                    path = self.plan.out / self.plan.names[at]
                    saves[at] = thread.submit(save_picture, made.picture, path)

            writing: list[tuple[int, Future[Path]]] = []
            adapters = self._bases.adapters
            for event in compose.render_groups(base, shots, groups, adapters, on_picture=save):
                if isinstance(event, compose.GroupStep):
                    yield event
                elif (at := places[event.number]) not in missing:
                    continue
                elif isinstance(event, compose.Failed):
                    yield PictureFailed(at, event.reason)
                else:
                    writing.append((at, saves.pop(at)))
                while writing and writing[0][1].done():
                    at, saved = writing.pop(0)
                    yield PictureWritten(at, saved.result())
            for at, saved in writing:
                yield PictureWritten(at, saved.result())


def _repeats(base: "Base") -> bool:
    """Whether making a group again gives the same bits."""
    return base.device.type == "cpu"


def _facts(base: "Base") -> dict[str, str]:
    """The facts of a base that affect its pictures. vae: "" for the base's own VAE."""
    from trainers.engine.data.cache import weights_sha256  # PyTorch with it

    vae = weights_sha256(base.vae) if base.vae_source else ""
    return {
        "fingerprint": base.fingerprint(),
        "dtype": base.precision,
        "vae": vae,
        "quantize": base.quantize,
    }


def _precision(facts: Mapping[str, str]) -> str:
    """A recorded precision, such as "fp16" or "fp16, stored in nf4"."""
    stored = facts.get("quantize", "none")
    return facts["dtype"] if stored == "none" else f"{facts['dtype']}, stored in {stored}"


def _problems(
    base: "Base", planned: Sequence[PlannedShot], cache: compose.AdapterCache
) -> Iterator[Problem]:
    """A problem, with line and field, for each shot that can't be made on this base."""

    def adapters(shot: Shot) -> list["Adapter"]:
        of_any_size = replace(shot, width=None, height=None, init_image=None, mask=None)
        return [adapter for adapter, _ in cache.resolve(of_any_size).adapters]

    def open_file(file: object) -> None:
        if file is not None:
            open_picture(str(file))

    checks = [
        Check("clip_skip", lambda shot: base.check_clip_skip(shot.clip_skip), needed=True),
        Check("init_image", lambda shot: open_file(shot.init_image), needed=True),
        Check("mask", lambda shot: open_file(shot.mask), needed=True),
        *size_checks(lambda _: base.latent_factor),
        Check("adapters", adapters, needed=True),
        method_check(adapters),
    ]
    return find_problems(planned, checks)


def _write_results(plan: Plan, failed: Mapping[int, str]) -> None:
    """Write results.jsonl: a line for each shot in the manifest's order, the same in every run."""
    with atomic_write(plan.out / "results.jsonl") as file:
        for at, (one, name) in enumerate(zip(plan.planned, plan.names, strict=True)):
            line = {"file": name, "made": at not in failed, "line": one.places[""]().line}
            line |= shot_to_dict(one.shot)
            if at in failed:
                line["reason"] = failed[at]
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
