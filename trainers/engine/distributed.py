"""Share a training among processes: each rank computes a part of every batch.

`accelerate launch` and `torchrun` tell a process its rank by environment variables. A recipe's
batch is the batch of all ranks together. Every rank draws the random numbers that a single process
would draw, so the result is the same, except that sums are rounded in another order. Only rank 0
writes files and draws pictures.
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
    """Raise BadInput where a step has fewer pictures than there are processes."""
    if pictures < world_size():
        raise BadInput(
            f"a step of {pictures} pictures can't be shared among {world_size()} processes: raise "
            "batch or accumulation, which count the pictures of all, or launch fewer"
        )


def autocast_of(dtype: torch.dtype, precision: str) -> str:
    """The precision for autocast: "fp16", "bf16" or "no". dtype: that of the base's weights.

    A base in bf16 needs no autocast, which would only cast the inputs of norms to float32 and the
    outputs back, with more calls and memory. A base in fp16 needs it: its norms could overflow.
    """
    if precision == "bf16" and dtype == torch.bfloat16:
        return "no"
    return precision if precision in ("fp16", "bf16") else "no"


def new_accelerator(device: torch.device, mixed: str) -> Accelerator:
    """An Accelerator for one training. mixed: what `autocast_of` returns."""
    # accelerate keeps one precision for the life of a process, but each training has its own.
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=mixed, cpu=device.type == "cpu")


def places_of_rank(accelerator: Accelerator, start: int, pictures: int) -> range:
    """The positions in a batch that this rank computes.

    pictures: how many the batch has. start: how many pictures the step had in batches before.
    """
    ranks = accelerator.num_processes
    return range((accelerator.process_index - start) % ranks, pictures, ranks)


def broadcast_path(accelerator: Accelerator, path: Path) -> Path:
    """Rank 0's path, in all ranks. The ranks wait for each other."""
    if accelerator.num_processes == 1:
        return path
    return Path(broadcast_object_list([str(path)])[0])


def sum_over_ranks(
    accelerator: Accelerator, total: Tensor, parameters: Sequence[nn.Parameter]
) -> None:
    """Sum a number and the gradients over all ranks, in place.

    accelerate's `prepare` cannot do it: it wraps modules whose forward is called, and a delta's is
    called by its layer; and it averages, although ranks have unequal shares of a batch. A gradient
    that no rank has stays None, so that the optimizer skips it as it does in one process.
    """
    if accelerator.num_processes == 1:
        return
    # One message for all: [number, 1 for each gradient that is there, the gradients].
    present = [float(p.grad is not None) for p in parameters]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    parts = [total.view(1), torch.tensor(present, device=total.device)]
    own = torch.cat([*parts, *(grad.detach().flatten().float() for grad in grads)])
    message = cast(Tensor, reduce(own, reduction="sum"))
    total.copy_(message[0])
    flags, *sums = message[1:].split([len(present), *(p.numel() for p in parameters)])
    for parameter, flag, gradient in zip(parameters, flags.tolist(), sums, strict=True):
        if flag:
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype)
