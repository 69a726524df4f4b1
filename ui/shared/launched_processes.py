"""This process among several that a launcher started, and the part of a batch that it makes.

`accelerate launch` and `torchrun` tell a process its number by its environment. Whole groups are
dealt out, so that a picture's bits are the same with any number of processes.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from studio.errors import BadInput
from ui.shared.terminal import hush

if TYPE_CHECKING:
    from accelerate import PartialState

__all__ = ["ALONE", "Share", "refuse_many", "sharing"]

# Who has made its share waits for the slowest, however long that takes. One that died leaves nobody
# waiting: its connections close, and the launcher ends the others.
PATIENCE = timedelta(days=30)

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """number: of this process, from 0. count: of all."""

    number: int
    count: int
    state: "PartialState | None" = None

    @property
    def first(self) -> bool:
        """Whether this process decides, writes the record and tells."""
        return self.number == 0

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """What this process is to do of a list that is the same in all."""
        return items[self.number :: self.count]

    def wait(self) -> None:
        """Until all have come so far."""
        if self.state:
            self.state.wait_for_everyone()

    def gather(self, own: Mapping[int, str]) -> dict[int, str]:
        """What all have found."""
        if not self.state:
            return dict(own)
        from accelerate.utils import gather_object

        return dict(gather_object(list(own.items())))


ALONE = Share(0, 1)


@contextmanager
def sharing(device: object) -> Iterator[Share]:
    """This process among those that were launched together; ALONE where there are no others.

    device: that the base is to be on, such as "auto" or "cpu". A process takes the GPU of its own
    number for it. Only the first speaks.
    """
    if _launched() < 2:
        yield ALONE
        return
    import torch
    from accelerate import PartialState

    on_cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=on_cpu, timeout=PATIENCE)
    if state.process_index:
        hush()
    try:
        yield Share(state.process_index, state.num_processes, state)
    finally:
        state.destroy_process_group()


def refuse_many(ray: str | None) -> None:
    """Raises BadInput where several processes were launched and each would have a cluster work."""
    if ray is not None and _launched() > 1:
        raise BadInput("--ray is for one process: leave out accelerate launch, or leave out --ray.")


def _launched() -> int:
    """How many processes were launched together."""
    return int(os.environ.get("WORLD_SIZE", "1"))
