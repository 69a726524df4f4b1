"""Processes that a launcher started together, and how they split a batch.

`accelerate launch` and `torchrun` set each process's rank in its environment. Each group of shots
is drawn by one rank, so that pictures have the same bits with any number of processes.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from studio.errors import BadInput
from ui.shared.terminal import silence

if TYPE_CHECKING:
    from accelerate import PartialState

# A rank that is done waits for the slowest one, however long that takes. This also holds if a rank
# dies: its connections close, and the launcher ends the others at once.
TIMEOUT = timedelta(days=30)

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """This process's place among the launched ones. rank: from 0. count: of all processes."""

    rank: int
    count: int
    state: "PartialState | None" = None

    @property
    def is_first(self) -> bool:
        """Whether this process makes the decisions, writes the record and reports."""
        return self.rank == 0

    def split(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's part of a list that is the same in all ranks."""
        return items[self.rank :: self.count]

    def wait(self) -> None:
        """Wait until all ranks have called this."""
        if self.state:
            self.state.wait_for_everyone()

    def gather(self, own: Mapping[int, str]) -> dict[int, str]:
        """The entries of all ranks in one dict. own: those of this rank."""
        if not self.state:
            return dict(own)
        from accelerate.utils import gather_object

        return dict(gather_object(list(own.items())))


SINGLE_PROCESS = ProcessGroup(0, 1)


@contextmanager
def process_group(device: object) -> Iterator[ProcessGroup]:
    """Join the processes that were launched together; SINGLE_PROCESS if there are no others.

    device: where the base will be, such as "auto" or "cpu". Each rank takes the GPU of its own
    number. Only rank 0 prints.
    """
    if _launched() < 2:
        yield SINGLE_PROCESS
        return
    import torch
    from accelerate import PartialState

    on_cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=on_cpu, timeout=TIMEOUT)
    if state.process_index:
        silence()
    try:
        yield ProcessGroup(state.process_index, state.num_processes, state)
    finally:
        state.destroy_process_group()


def refuse_many(ray: str | None) -> None:
    """Raise BadInput if several processes were launched and each would use the Ray cluster."""
    if ray is not None and _launched() > 1:
        raise BadInput("--ray is for one process: leave out accelerate launch, or leave out --ray.")


def _launched() -> int:
    """The number of processes that the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))
