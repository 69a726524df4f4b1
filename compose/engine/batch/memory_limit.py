"""How many shots fit in memory as one batch, and the reason given where not even one fits."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from compose.engine.batch.adapter_cache import AdapterCache
from compose.engine.batch.groups import ROWS, pixels
from compose.engine.denoise import drop_unused
from compose.engine.evaluate import evaluate, most_rows
from compose.engine.picture_run import PictureRun, start_run
from compose.engine.sampler import timesteps_of
from compose.engine.weights.render_cache import cache_of
from studio.errors import BadInput
from studio.out_of_memory import is_out_of_memory
from studio.requests.shot import Shot

if TYPE_CHECKING:
    from studio.bases.base import Base

MOST_ON_GPU = 32  # rows; more would gain little speed for the memory that they take
REASONS = (BadInput, MemoryError, RuntimeError)  # the exceptions that `why_not_made` explains


def batch_sizes(base: "Base", shots: Sequence[Shot], cache: AdapterCache) -> dict[str, int]:
    """The number of shots in a batch, by the size of their pictures, such as "64x64".

    On a GPU one batch of each size is tried out. shots: with their sizes set; shots that can't be
    made are skipped.
    """
    with cache_of(base).for_many():
        return {
            size: _batch_size(base, [shot for shot in shots if pixels(shot) == size], cache)
            for size in dict.fromkeys(map(pixels, shots))
        }


def evaluate_first_step(base: "Base", runs: Sequence[PictureRun]) -> int:
    """Run the evaluations of these shots' first step and wait for them; return their number.

    Where the plan evaluates crops, run those of the last step, which are the largest.
    """
    _, timesteps = timesteps_of(base, runs[0].shot)
    asked = [
        run.evaluation(call, latents, timesteps[0].to(base.device))
        for run in runs
        for latents in [torch.zeros(1, 4, *run.latent_side, device=base.device)]
        for call in run.calls[-1 if any(one.box for one in run.calls[0]) else 0]
    ]
    for answer in evaluate(base, asked):
        answer.noise.sum().item()  # waits for the device
    return len(asked)


def why_not_made(error: Exception) -> str:
    """The reason why a shot can't be made, as a sentence. Raises any other error again."""
    if isinstance(error, BadInput):
        return str(error)
    if not is_out_of_memory(error):
        raise error
    return (
        "there was not enough memory: choose a smaller width and height, or open the base with "
        "low-memory."
    )


def _batch_size(base: "Base", shots: Sequence[Shot], cache: AdapterCache) -> int:
    """How many shots of one size make a batch: as many as memory has room for; at least one."""
    assert shots[0].width and shots[0].height
    side = base.latent_side(shots[0].width, shots[0].height)
    limits = cache_of(base).most_rows
    if base.device.type != "cpu" and side not in limits:
        limits[side] = MOST_ON_GPU
        try:
            if (run := next(_possible(base, shots, cache), None)) is not None:
                drop_unused([run] * (MOST_ON_GPU // ROWS))
                evaluate_first_step(base, [run] * (MOST_ON_GPU // ROWS))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            limits[side] = ROWS
    return max(1, most_rows(base, side) // ROWS)


def _possible(base: "Base", shots: Sequence[Shot], cache: AdapterCache) -> Iterator[PictureRun]:
    """The shots that can be made."""
    for shot in shots:
        with suppress(BadInput):
            yield start_run(base, cache.resolve(shot))
