"""What a training will take, said before it starts: its memory and its time.

Memory is counted: the weights, what is trained with its gradients and the optimiser's state, and
what autograd keeps of a pass (trainers/engine/estimate/memory_model.py). Time is that of an earlier
run of the same settings, or else what is multiplied at the speed of a short measurement
(trainers/engine/estimate/step_times.py). How far both are from what trainings take is printed by
tests/benchmarks/estimates.py.
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
from trainers.engine.estimate.memory_model import AUTOCAST, Pass, decoded, encoded, trained
from trainers.engine.estimate.step_times import measured, noted, place_of, settings_of
from trainers.engine.kind import new_deltas
from trainers.engine.optimizers import state_bytes
from trainers.engine.resolve import recipe_for

if TYPE_CHECKING:
    from studio.adapters.delta import Delta
    from studio.bases.base import Base
    from studio.requests.recipe import Recipe
    from trainers.engine.kind import Kind

__all__ = ["Estimate", "estimate"]

# Bytes that a process has which did nothing yet: Python with PyTorch and diffusers on a CPU, its
# CUDA context on a GPU.
FIRST = {"cpu": 450e6, "cuda": 500e6}
# What allocators take beside what is asked for: on a CPU pieces are left between tensors.
SPREAD = {"cpu": 1.25, "cuda": 1.05}
# Of the VAE's widest tensor, [channels of its first block, H, W], what either way needs at once.
ENCODING, DECODING = 5, 8
# What a call on the way there comes to, in the plainest of all: Python's modules around it, its
# way back, its part of the optimiser. And what a byte made there comes to, in bytes that an
# activation makes: those of the way back, and what is read. Fitted on sketch, in processor time.
CALL, MOVED = 7.5, 10


@dataclass(frozen=True)
class Estimate:
    """What a training will take. str() says it in a sentence."""

    seconds: float
    """from the first picture encoded to the adapter's file"""
    bytes: int
    """the most memory at a time: of the process on a CPU, of the GPU on one"""
    step: float
    """seconds of one step"""
    known: bool
    """whether an earlier run of the same settings says how long a step takes"""
    free: int | None
    """bytes that are free there now, as far as the system says"""

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
    once = noted(Path(runs), settings_of(kind, base, recipe, prior=prior))
    recipe = replace(recipe, batch=-(-recipe.batch // world_size()))  # that of each process
    through = trained(base, deltas, recipe)
    step = _step(through, base, recipe) * passes if once is None else once
    # Whatever else is encoded and drawn goes as fast as what is trained.
    drawn = _samples(recipe) if drawing else 0
    drawn += recipe.prior_count if recipe.prior_class is not None and not prior_pictures else 0
    besides = _besides(base, recipe, through, pictures=pictures, drawn=drawn)
    return Estimate(
        seconds=recipe.steps * step + besides * step / (passes * (through.there + through.back)),
        bytes=_bytes(base, deltas, recipe, through, drawing=drawing),
        step=step,
        known=once is not None,
        free=_free(place_of(base)),
    )


def _step(through: Pass, base: "Base", recipe: "Recipe") -> float:
    """Seconds of a batch, there and back, at this machine's speed of the moment."""
    half = recipe.precision in AUTOCAST or base.dtype != torch.float32
    side = _side(base, recipe) // base.latent_factor
    speed = measured(base, side=side, batch=recipe.batch, half=half)
    multiplied = (through.there + through.back) / speed.flops
    return multiplied + CALL * through.calls * speed.call + MOVED * through.moved / speed.moved


def _samples(recipe: "Recipe") -> int:
    """How many sample pictures are drawn."""
    rounds = 1 + (recipe.steps - 1) // recipe.sample_every if recipe.sample_every else 1
    return rounds * max(1, len(recipe.sample_prompts))


def _besides(base: "Base", recipe: "Recipe", through: Pass, *, pictures: int, drawn: int) -> float:
    """Floating point operations before, between and after the steps: of coding and drawing."""
    side, shot = _side(base, recipe), Shot("")
    variants = recipe.crops * (2 if recipe.flip else 1)
    rows = 2 if shot.guidance > 1 else 1
    picture = shot.steps * rows * through.plain / recipe.batch + decoded(base, side=side).there
    return encoded(base, side=side).there * variants * pictures + picture * drawn


def _bytes(
    base: "Base", deltas: "dict[str, Delta]", recipe: "Recipe", through: Pass, *, drawing: bool
) -> int:
    """The most memory at a time: while pictures are encoded, learned from, or drawn."""
    place = place_of(base).type
    parts: tuple[nn.Module, ...] = (base.unet, base.vae, *base.text_encoders)
    weights = [_held(part) for part in parts]
    lent = max(weights) if base.offload else sum(weights)
    learned = [p for delta in deltas.values() for p in delta.parameters()]
    numbers = sum(p.numel() for p in learned)
    state = sum(map(_held, deltas.values())) + state_bytes(recipe.optimizer, learned)
    state += 4 * numbers if recipe.ema else 0
    largest = max(4 * prod(delta.shape) for delta in deltas.values())
    step = 4 * numbers + SPREAD[place] * (through.kept + 2 * largest)
    side = _side(base, recipe)
    wide = base.vae.config["block_out_channels"][0] * side**2 * base.vae.dtype.itemsize
    return int(FIRST[place] + lent + state + max(step, wide * (DECODING if drawing else ENCODING)))


def _side(base: "Base", recipe: "Recipe") -> int:
    return recipe.size or base.size


def _held(part: nn.Module) -> int:
    """Bytes of a module's own tensors."""
    return sum(t.numel() * t.itemsize for t in (*part.parameters(), *part.buffers()))


def _free(place: torch.device) -> int | None:
    """Bytes that are free there; None where the system does not say."""
    if place.type == "cuda":
        return torch.cuda.mem_get_info(place)[0]
    said = Path("/proc/meminfo")
    lines = said.read_text().splitlines() if said.exists() else []
    free = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if free is None else int(free) * 1024


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
