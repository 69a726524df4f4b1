"""A training shared among processes: each rank has its part of every batch.

`accelerate launch` and `torchrun` tell a process its rank in the environment. A recipe's batch is
the batch of all ranks together. Every rank draws the random numbers that a single process would
draw, so the result is the same, except that sums are rounded in another order. Only rank 0 writes
files and draws pictures.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, reduce
from torch import Tensor, nn

from studio.errors import BadInput


def world_size() -> int:
    """How many processes a launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched_rank() -> int:
    """The rank that a launcher gave this process; 0 without one."""
    return int(os.environ.get("RANK", "0"))


def check_world_size(pictures: int) -> None:
    """BadInput where a step of so many pictures leaves a process without one."""
    if pictures < world_size():
        raise BadInput(
            f"a step of {pictures} pictures can't be shared among {world_size()} processes: raise "
            "batch or accumulation, which count the pictures of all, or launch fewer"
        )


def autocast_of(dtype: torch.dtype, precision: str) -> str:
    """The precision for autocast: fp16, bf16 or "no". dtype: of the base's weights.

    A base in bf16 computes in it by itself; autocast would only widen its norms, and then narrow
    what they give, in more calls and memory. In fp16 the norms could overflow.
    """
    if precision == "bf16" and dtype == torch.bfloat16:
        return "no"
    return precision if precision in ("fp16", "bf16") else "no"


def new_accelerator(device: torch.device, mixed: str) -> Accelerator:
    """accelerate's view of this process. mixed: as `autocast_of` has it."""
    # accelerate keeps one precision for the life of a process; here each training has its own.
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=mixed, cpu=device.type == "cpu")


def places_of_rank(accelerator: Accelerator, start: int, pictures: int) -> range:
    """The places in a batch that this rank computes. start: pictures of the step before these."""
    ranks = accelerator.num_processes
    return range((accelerator.process_index - start) % ranks, pictures, ranks)


def broadcast_path(accelerator: Accelerator, path: Path) -> Path:
    """Rank 0's path, in all ranks. All wait for each other."""
    if accelerator.num_processes == 1:
        return path
    return Path(broadcast_object_list([str(path)])[0])


def sum_over_ranks(
    accelerator: Accelerator, total: Tensor, parameters: Sequence[nn.Parameter]
) -> None:
    """Add up a number and the gradients of all ranks, in place.

    accelerate's `prepare` cannot do it: it wraps modules whose forward is called, which that of a
    delta is not, and it averages where ranks have unequal shares. A gradient that every rank lacks
    stays None, so that the optimizer skips it as it does in one process.
    """
    if accelerator.num_processes == 1:
        return
    # One message for all: [number, 1 for each gradient that is there, the gradients].
    present = [float(one.grad is not None) for one in parameters]
    grads = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
    parts = [total.view(1), torch.tensor(present, device=total.device)]
    own = torch.cat([*parts, *(one.detach().flatten().float() for one in grads)])
    message = cast(Tensor, reduce(own, reduction="sum"))
    total.copy_(message[0])
    flags, *sums = message[1:].split([len(present), *(one.numel() for one in parameters)])
    for one, flag, found in zip(parameters, flags.tolist(), sums, strict=True):
        if flag:
            one.grad = found.view_as(one).to(one.dtype)
