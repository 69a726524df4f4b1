"""A training shared among processes: each has its part of every batch, and gradients are summed.

`accelerate launch` and `torchrun` tell a process its number by its environment. A recipe's batch is
that of all processes together, and all draw what one would draw, so the result is that of one
process up to the rounding of sums. Only the first process writes.
"""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from accelerate import PartialState
from torch import Tensor

from studio.errors import BadInput

__all__ = ["Together", "processes", "together"]


@dataclass(frozen=True)
class Together:
    """number: of this process, from 0. count: of all; state is None for one that is alone."""

    number: int = 0
    count: int = 1
    state: PartialState | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes and draws."""
        return self.number == 0

    def wait(self) -> None:
        """Until all have come so far."""
        if self.state:
            self.state.wait_for_everyone()

    def first_first(self) -> AbstractContextManager[None]:
        """What is inside is done by the first process, and when it is there by the others."""
        return self.state.main_process_first() if self.state else nullcontext()

    def own(self, start: int, pictures: int) -> range:
        """The places in a batch that are this process's. start: pictures of the step before it."""
        return range((self.number - start) % self.count, pictures, self.count)

    def sum(self, total: Tensor, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Add up a number and the gradients of all processes, in place; absent everywhere stays so.

        One message for all of them: [number, 1 for each gradient that is there, the gradients].
        """
        if not self.state:
            return
        there = [float(one.grad is not None) for one in parameters]
        flat = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        parts = [total.view(1), torch.tensor(there, device=total.device)]
        message = torch.cat([*parts, *(one.detach().flatten().float() for one in flat)])
        torch.distributed.all_reduce(message)
        total.copy_(message[0])
        flags, *sums = message[1:].split([len(there), *(one.numel() for one in parameters)])
        for one, flag, found in zip(parameters, flags.tolist(), sums, strict=True):
            if flag:
                one.grad = found.view_as(one).to(one.dtype)


def processes() -> int:
    """How many processes a launcher started, as it says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def together(device: torch.device, *, pictures: int) -> Together:
    """This process among those that a launcher started.

    pictures: of one step. Raises BadInput where there is not one for each process.
    """
    count = processes()
    if count < 2:
        return Together()
    if pictures < count:
        raise BadInput(
            f"a step of {pictures} pictures can't be shared among {count} processes: raise batch "
            "or accumulation, which count the pictures of all, or launch fewer"
        )
    state = PartialState(cpu=device.type == "cpu")
    return Together(state.process_index, state.num_processes, state)
