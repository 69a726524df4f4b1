"""Groups of shots as tasks of a Ray cluster, for `studio batch --ray ADDRESS`.

A task makes one group and gives its pictures back as files' bytes; who asked writes them. So the
machines share no folder for the pictures, but bases, adapters and pictures to start from are to lie
in the same places on all of them. A task whose worker is lost is done by another.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import compose
from studio.errors import BadInput
from studio.shot import Shot, save_picture
from ui._loading import open_base

if TYPE_CHECKING:
    from studio.base import Base

__all__ = ["Errand", "Reply", "run_errands"]

LOST = 3  # times that a group is begun again when its worker is lost


@dataclass(frozen=True)
class Errand:
    """A group to be made. shots: of its base, with their sizes; its numbers are places in them."""

    source: str
    shots: Sequence[Shot]
    group: compose.Group


@dataclass(frozen=True)
class Reply:
    """What came of an errand. pictures: PNG files by number. reasons: of those that failed.

    rows: fewer than the group was to have, where the memory held no more.
    """

    errand: Errand
    pictures: Mapping[int, bytes]
    reasons: Mapping[int, str]
    rows: int


def run_errands(
    errands: Sequence[Errand], loading: Mapping[str, object], address: str
) -> Iterator[Reply]:
    """Have groups made on the cluster at this address, told in the order in which they are done.

    address: HOST:PORT, "auto" for the cluster of this machine, "local" for one of its own.
    Raises BadInput where Ray is not installed or there is no such cluster.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise BadInput("--ray needs Ray: pip install 'studio[ray]'") from None
    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadInput(f"there is no Ray cluster at {address}: {error}") from None
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=LOST)(_make)
        kept = {id(one.shots): ray.put(list(one.shots)) for one in errands}
        pending = {
            task.remote(one.source, kept[id(one.shots)], one.group, dict(loading)): one
            for one in errands
        }
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            errand = pending.pop(done)
            try:
                yield Reply(errand, *ray.get(done))
            except ray.exceptions.RayError as error:
                reason = f"no worker could make it: {str(error).splitlines()[0]}"
                reasons = dict.fromkeys(errand.group.numbers, reason)
                yield Reply(errand, {}, reasons, errand.group.rows)
    finally:
        ray.shutdown()  # what is left of the tasks ends with it


def _make(
    source: str, shots: Sequence[Shot], group: compose.Group, loading: Mapping[str, object]
) -> tuple[dict[int, bytes], dict[int, str], int]:
    """The task: pictures, reasons and rows of a group."""
    base, shelf = _opened(source, tuple(sorted(loading.items())))
    pictures, reasons, rows = {}, {}, group.rows
    with tempfile.TemporaryDirectory() as folder:
        for event in compose.render_groups(base, shots, [group], shelf):
            match event:
                case compose.Made(number, shot, picture):
                    path = save_picture(picture, Path(folder) / f"{number}.png", shot, base)
                    pictures[number] = path.read_bytes()
                case compose.Failed(number, _, reason):
                    reasons[number] = reason
                case compose.Narrowed(_, fewer):
                    rows = fewer
    return pictures, reasons, rows


@lru_cache(maxsize=1)
def _opened(source: str, loading: tuple[tuple[str, object], ...]) -> "tuple[Base, compose.Shelf]":
    """A base stays open in its worker for the next group."""
    base = open_base(source, dict(loading))
    return base, compose.Shelf(base)
