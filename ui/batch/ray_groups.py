"""Groups of shots as tasks of a Ray cluster, for `studio batch --ray ADDRESS`.

A task makes one group and returns its pictures as the bytes of PNG files; the caller writes them.
So the machines need no shared folder for the pictures, but bases, adapters and start pictures must
be in the same places on all of them. If a worker dies, another one makes its group. If every worker
that tries a group dies, the group's shots become tasks of their own, so that one bad shot doesn't
stop the others.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import compose
from studio.requests.picture_file import save_picture
from studio.requests.shot import Shot
from ui.shared.loading import BaseCache
from ui.shared.ray_cluster import Cluster, TaskFailure


@dataclass(frozen=True)
class GroupTask:
    """A group to be made.

    source: its base. shots: all shots of the base, with their sizes set; the group's numbers are
    places among them. wanted: the numbers whose pictures are missing.
    """

    source: str
    shots: Sequence[Shot]
    group: compose.Group
    wanted: Sequence[int]


@dataclass(frozen=True)
class GroupResult:
    """The result of a task. pictures: PNG files by number. reasons: of failed shots, by number."""

    task: GroupTask
    pictures: Mapping[int, bytes]
    reasons: Mapping[int, str]


def run_tasks(
    tasks: Sequence[GroupTask], loading: Mapping[str, object], cluster: Cluster
) -> Iterator[GroupResult]:
    """Make groups on the cluster; yield results in the order in which they finish."""
    kept = {id(one.shots): cluster.keep(list(one.shots)) for one in tasks}

    def send(one: GroupTask) -> None:
        cluster.add(one, _make, one.source, kept[id(one.shots)], one.group, dict(loading))

    for task in tasks:
        send(task)
    for task, outcome in cluster.outcomes():
        group = task.group
        if not isinstance(outcome, TaskFailure):
            yield GroupResult(task, *outcome)
        elif outcome.lost and len(group.numbers) > 1:
            for number in task.wanted:
                send(replace(task, group=replace(group, numbers=(number,)), wanted=(number,)))
        else:
            yield GroupResult(task, {}, dict.fromkeys(task.wanted, outcome.reason))


_worker_bases = BaseCache()  # a base stays open in its Ray worker for the next group


def _make(
    source: str, shots: Sequence[Shot], group: compose.Group, loading: Mapping[str, object]
) -> tuple[dict[int, bytes], dict[int, str]]:
    """The task: returns the pictures and reasons of a group, see GroupResult."""
    base = _worker_bases.open(source, loading)
    pictures, reasons = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for event in compose.render_groups(base, shots, [group], _worker_bases.adapters):
            match event:
                case compose.Made(number, _, picture):
                    path = save_picture(picture, Path(folder) / f"{number}.png")
                    pictures[number] = path.read_bytes()
                case compose.Failed(number, _, reason):
                    reasons[number] = reason
    return pictures, reasons
