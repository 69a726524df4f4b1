"""An estimate of a training before it starts: its memory and its time.

Memory is counted: the weights, what is trained with its gradients and the optimizer's state, and
what autograd saves of a pass (trainers/engine/estimate/memory_model.py). Time is that of an earlier
run of the same settings, or else the number of operations at a speed that is measured for a moment
(trainers/engine/estimate/step_times.py). tests/benchmarks/estimates.py prints how far both are from
what trainings take.
"""

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from studio.duration import format_duration
from studio.requests.recipe import with_options
from studio.requests.shot import Shot
from trainers.engine.distributed import world_size
from trainers.engine.estimate.memory_model import (
    AUTOCAST,
    PassCost,
    decoding_cost,
    encoding_cost,
    training_cost,
)
from trainers.engine.estimate.step_times import (
    device_of,
    find_step_time,
    measure_speed,
    settings_of,
)
from trainers.engine.kind import new_deltas
from trainers.engine.optimizers import state_bytes
from trainers.engine.resolve import kind_of, recipe_for, recipe_of

if TYPE_CHECKING:
    from studio.adapters.delta import Delta
    from studio.bases.base import Base
    from studio.requests.recipe import Recipe
    from studio.requests.training import TrainingRequest
    from trainers.engine.kind import Kind

# Bytes of a process that has done nothing yet: Python with PyTorch and diffusers on a CPU, the CUDA
# context on a GPU.
PROCESS = {"cpu": 450e6, "cuda": 500e6}
# By how much fragmentation makes an allocator take more than it was asked for.
FRAGMENTED = {"cpu": 1.25, "cuda": 1.05}
# How many of the VAE's widest tensor, [channels of its first block, H, W], are needed at once.
ENCODING, DECODING = 5, 8
# What a call of the forward pass costs, in the plainest of calls: Python's modules around it, its
# backward pass, its part of the optimizer. And what a byte written there costs, in bytes that an
# activation writes: those of the backward pass, and reading. Fitted on sketch, in processor time.
PER_CALL, PER_BYTE = 7.5, 10


@dataclass(frozen=True)
class Estimate:
    """Time and memory that a training will take. str() gives a sentence."""

    seconds: float
    """from the first picture encoded to the adapter's file"""
    bytes: int
    """the most memory at a time: of the process on a CPU, of the GPU on one"""
    step: float
    """seconds per step"""
    known: bool
    """whether the step time is that of an earlier run with the same settings"""
    free: int | None
    """bytes that are free now; None if the system does not say"""

    @property
    def fits(self) -> bool:
        """Whether so much memory is free."""
        return self.free is None or self.bytes <= self.free

    def __str__(self) -> str:
        perhaps = "as an earlier run" if self.known else "perhaps half or twice that"
        enough = "" if self.fits else f", which is more than the {_size(self.free or 0)} free"
        time, memory = format_duration(self.seconds), _size(self.bytes)
        return f"about {time} ({perhaps}) and {memory} of memory{enough}"


def estimate(
    kind: "Kind",
    base: "Base",
    *,
    pictures: int = 0,
    prior_pictures: str | Path | None = None,
    drawing: bool = True,
    runs: str | Path = "runs",
    recipe: "Recipe | None" = None,
    **options: object,
) -> Estimate:
    """What `train` will take for this kind on this base; nothing is written or changed.

    base: as opened, or `real_config`'s. pictures: how many there are to learn from. drawing:
    whether sample pictures are drawn, one at the end at least. runs: the folder whose runs may know
    how long a step takes. prior_pictures, recipe, options: as `train` takes them.
    Raises BadInput where the kind or an option does not suit.
    """
    kind = kind.for_base(base)
    recipe = with_options(recipe or recipe_for(base, kind), options)
    deltas = new_deltas(kind, base, generator=torch.Generator(), text_encoders=recipe.text_encoders)
    prior = recipe.prior_class is not None or prior_pictures is not None
    passes = recipe.accumulation * (2 if prior else 1)
    known = find_step_time(Path(runs), settings_of(kind, base, recipe, prior=prior))
    recipe = replace(recipe, batch=-(-recipe.batch // world_size()))  # that of each process
    cost = training_cost(base, deltas, recipe)
    step = _batch_seconds(cost, base, recipe) * passes if known is None else known
    # Whatever else is encoded and drawn goes as fast as what is trained.
    drawn = _samples(recipe) if drawing else 0
    drawn += recipe.prior_count if recipe.prior_class is not None and not prior_pictures else 0
    others = _other_operations(base, recipe, cost, pictures=pictures, drawn=drawn)
    return Estimate(
        seconds=recipe.steps * step + others * step / (passes * (cost.forward + cost.backward)),
        bytes=_peak_bytes(base, deltas, recipe, cost, drawing=drawing),
        step=step,
        known=known is not None,
        free=_free_bytes(device_of(base)),
    )


def estimate_request(
    request: "TrainingRequest",
    base: "Base",
    *,
    pictures: int = 0,
    runs: str | Path = "runs",
) -> Estimate:
    """What `run_request` will take, as `estimate` has it."""
    kind = kind_of(request)
    return estimate(
        kind,
        base,
        pictures=pictures,
        prior_pictures=request.prior_pictures,
        runs=runs,
        recipe=recipe_of(request, base, kind),
    )


def _batch_seconds(cost: PassCost, base: "Base", recipe: "Recipe") -> float:
    """Seconds of a batch, forward and backward, at this machine's speed of the moment."""
    half = recipe.precision in AUTOCAST or base.dtype != torch.float32
    side = _side(base, recipe) // base.latent_factor
    speed = measure_speed(base, side=side, batch=recipe.batch, half=half)
    computing = (cost.forward + cost.backward) / speed.flops
    return computing + PER_CALL * cost.calls * speed.call + PER_BYTE * cost.written / speed.written


def _samples(recipe: "Recipe") -> int:
    """How many sample pictures are drawn."""
    rounds = 1 + (recipe.steps - 1) // recipe.sample_every if recipe.sample_every else 1
    return rounds * max(1, len(recipe.sample_prompts))


def _other_operations(
    base: "Base", recipe: "Recipe", cost: PassCost, *, pictures: int, drawn: int
) -> float:
    """Floating point operations outside the steps: those of encoding and drawing pictures."""
    side, shot = _side(base, recipe), Shot("")
    variants = recipe.crops * (2 if recipe.flip else 1)
    rows = 2 if shot.guidance > 1 else 1
    denoising = shot.steps * rows * cost.base_forward / recipe.batch
    drawing = drawn * (denoising + decoding_cost(base, side=side).forward)
    return encoding_cost(base, side=side).forward * variants * pictures + drawing


def _peak_bytes(
    base: "Base", deltas: "dict[str, Delta]", recipe: "Recipe", cost: PassCost, *, drawing: bool
) -> int:
    """The most memory at a time: while pictures are encoded, learned from, or drawn."""
    device = device_of(base).type
    parts: tuple[nn.Module, ...] = (base.unet, base.vae, *base.text_encoders)
    weights = [_module_bytes(part) for part in parts]
    model = max(weights) if base.offload else sum(weights)
    parameters = [p for delta in deltas.values() for p in delta.parameters()]
    gradients = 4 * sum(p.numel() for p in parameters)
    state = sum(map(_module_bytes, deltas.values())) + state_bytes(recipe.optimizer, parameters)
    state += gradients if recipe.ema else 0  # the average is as large
    largest = max(4 * prod(delta.shape) for delta in deltas.values())
    step = gradients + FRAGMENTED[device] * (cost.saved + 2 * largest)
    side = _side(base, recipe)
    widest = base.vae.config["block_out_channels"][0] * side**2 * base.vae.dtype.itemsize
    vae = widest * (DECODING if drawing else ENCODING)
    return int(PROCESS[device] + model + state + max(step, vae))


def _side(base: "Base", recipe: "Recipe") -> int:
    return recipe.size or base.size


def _module_bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.itemsize for t in (*module.parameters(), *module.buffers()))


def _free_bytes(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    free = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if free is None else int(free) * 1024


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
