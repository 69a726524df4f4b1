"""Estimate the memory and the time of a training before it starts.

Memory is counted: the base's weights, the trained parameters with their gradients and the
optimizer's state, and the tensors that autograd saves in a pass
(trainers/engine/estimate/memory_model.py). The time of a step comes from an earlier or running
training with the same settings. Where there is none, it is computed from the number of operations
and a speed: that of a training on the same base, or else one that is measured briefly.
tests/benchmarks/estimates.py compares both with real trainings.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from studio.bases.device import has_own_memory
from studio.cost.memory import PROCESS, format_bytes, free_bytes, module_bytes
from studio.cost.operations import PassCost, decoding_cost, encoding_cost
from studio.cost.speed import device_of, measure_speed
from studio.dataset.buckets import check_size
from studio.duration import format_duration, format_range
from studio.errors import BadInput
from studio.requests.recipe import with_options
from studio.requests.shot import Shot
from studio.requests.training import TrainingRequest
from trainers.engine.distributed import world_size
from trainers.engine.estimate.memory_model import AUTOCAST, training_cost
from trainers.engine.estimate.step_times import (
    DECIDING,
    find_similar,
    find_step_time,
    settings_of,
)
from trainers.engine.from_prompts.alignment import Alignment
from trainers.engine.from_prompts.prompt_kind import PromptKind
from trainers.engine.kind import new_deltas
from trainers.engine.optimizers import state_bytes
from trainers.engine.resolve import kind_of, recipe_for, recipe_of

if TYPE_CHECKING:
    from studio.adapters.delta import Delta
    from studio.bases.base import Base
    from studio.requests.recipe import Recipe
    from trainers.engine.kind import Kind

# The range of a step's real time, as multiples of the estimate, by the estimate's source.
SPREAD = {"same": (0.85, 1.2), "similar": (0.6, 1.6), "measured": (0.5, 2.0)}
Source = Literal["same", "similar", "measured"]
# By fragmentation, an allocator takes this many times the memory that is asked for.
FRAGMENTED = {"cpu": 1.25, "cuda": 1.05}
# How many tensors of the VAE's widest size, [channels of its first block, H, W], exist at once.
ENCODING, DECODING = 5, 8
# The cost of a step per operation of the forward pass. PER_CALL: in times of the simplest call; it
# includes Python's modules, the backward pass and the optimizer. PER_BYTE: per byte written in the
# forward pass, in times of writing one byte; it includes reading and the backward pass. Both were
# fitted to processor time on the sketch base, PER_CALL of a GPU to a LoRA training of SDXL on an
# H100 (where the simplest call is a kernel launch).
PER_CALL, PER_BYTE = {"cpu": 7.5, "cuda": 3.2}, 10


@dataclass(frozen=True)
class Estimate:
    """Time and memory that a training will take. str() gives a sentence."""

    seconds: float
    """from encoding the first picture to writing the adapter's file"""
    bytes: int
    """the most memory at a time: that of the process on a CPU, GPU memory on a GPU"""
    step: float
    """seconds per step"""
    source: Source
    """where the step time comes from: a training with the same settings, a training on the same
    base, or a speed that was measured briefly"""
    free: int | None
    """bytes that are free now; None if the system does not say"""

    @property
    def fits(self) -> bool:
        """Whether that much memory is free now, as far as the system says."""
        return self.free is None or self.bytes <= self.free

    def __str__(self) -> str:
        time = f"about {format_duration(self.seconds)}"
        if self.source != "same":
            least, most = (factor * self.seconds for factor in SPREAD[self.source])
            time = format_range(least, most)
        free = format_bytes(self.free or 0)
        enough = "" if self.fits else f", which is more than the {free} free"
        return f"{time} and {format_bytes(self.bytes)} of memory{enough}"


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
    """What `train` will take for this kind on this base. Nothing is written or changed.

    base: an open base, or one from `real_config`. pictures: how many there are to learn from.
    drawing: whether samples are drawn, at least one at the end. runs: the folder with earlier runs,
    which have recorded their step times. prior_pictures, recipe, options: as in `train`.
    Raises BadInput where the kind or an option does not suit the base.
    """
    kind = kind.for_base(base)
    recipe = with_options(recipe or recipe_for(base, kind), options)
    check_size(recipe.size or base.size, base.step)
    deltas = new_deltas(kind, base, generator=torch.Generator(), text_encoders=recipe.text_encoders)
    prior = recipe.prior_class is not None or prior_pictures is not None
    passes = recipe.accumulation * (2 if prior else 1)
    settings = settings_of(kind, base, recipe, prior=prior)
    known = find_step_time(Path(runs), settings)
    recipe = replace(recipe, batch=-(-recipe.batch // world_size()))  # each process has a part
    single = training_cost(base, deltas, recipe)
    cost = _with_evaluations(single, kind, base, recipe)
    step, source = known, "same"
    if step is None:
        step = _batch_seconds(cost, base, recipe) * passes
        faster = _faster_than_measured(Path(runs), settings, base, recipe)
        step, source = (step, "measured") if faster is None else (step * faster, "similar")
    # Encoding and drawing are taken to be as fast, per operation, as the training.
    drawn = _samples(recipe) if drawing else 0
    drawn += recipe.prior_count if recipe.prior_class is not None and not prior_pictures else 0
    learned = 0 if isinstance(kind, PromptKind) else pictures
    others = _other_operations(base, recipe, single, pictures=learned, drawn=drawn)
    return Estimate(
        seconds=recipe.steps * step + others * step / (passes * cost.operations),
        bytes=_peak_bytes(kind, base, deltas, recipe, cost, drawing=drawing),
        step=step,
        source=source,
        free=free_bytes(device_of(base)),
    )


def estimate_request(
    request: "TrainingRequest",
    base: "Base",
    *,
    pictures: int = 0,
    runs: str | Path = "runs",
) -> Estimate:
    """What `run_request` will take; see `estimate`."""
    kind = kind_of(request)
    return estimate(
        kind,
        base,
        pictures=pictures,
        prior_pictures=request.prior_pictures,
        runs=runs,
        recipe=recipe_of(request, base, kind),
    )


def _with_evaluations(cost: PassCost, kind: "Kind", base: "Base", recipe: "Recipe") -> PassCost:
    """The cost of a batch with all the evaluations that a kind without pictures makes.

    cost: that of one evaluation of the UNet. An alignment also decodes its pictures.
    """
    if not isinstance(kind, PromptKind):
        return cost
    learned, others = kind.evaluations(recipe)
    cost = replace(
        cost,
        forward=learned * cost.forward + others * cost.base_forward,
        backward=learned * cost.backward,
        calls=round(cost.calls * (learned + others / PER_CALL[device_of(base).type])),
        written=round(cost.written * (learned + others / PER_BYTE)),
        saved=round(learned * cost.saved),
    )
    if not isinstance(kind, Alignment):
        return cost
    side = _side(base, recipe)
    decoding = decoding_cost(base, size=(side, side))  # of one picture
    return replace(
        cost,
        forward=cost.forward + recipe.batch * decoding.forward,
        backward=cost.backward + recipe.batch * decoding.forward,
        calls=cost.calls + recipe.batch * decoding.calls,
        written=cost.written + recipe.batch * decoding.written,
        saved=cost.saved + (1 if recipe.checkpointing else recipe.batch) * decoding.written,
    )


def _batch_seconds(cost: PassCost, base: "Base", recipe: "Recipe") -> float:
    """Seconds of a batch, forward and backward, at the speed that this machine has now."""
    half = recipe.precision in AUTOCAST or base.dtype != torch.float32
    side = _side(base, recipe) // base.latent_factor
    speed = measure_speed(base, side=side, batch=recipe.batch, half=half)
    calling = PER_CALL[device_of(base).type] * cost.calls * speed.call
    return calling + cost.operations / speed.flops + PER_BYTE * cost.written / speed.written


def _faster_than_measured(
    runs: Path, settings: Mapping[str, object], base: "Base", recipe: "Recipe"
) -> float | None:
    """The step time of a similar training, as a share of the time estimated for it.

    That training had the same base; the estimate is by the speed that is measured now. None where
    there is no such training.
    """
    similar = find_similar(runs, settings)
    if similar is None:
        return None
    earlier, step = similar
    try:
        kind = kind_of(TrainingRequest(earlier["kind"], options=earlier["options"])).for_base(base)
        changes = {name: earlier[name] for name in DECIDING}
        changes["batch"] = -(-changes["batch"] // world_size())
        recipe = with_options(recipe, changes)
        encoders = recipe.text_encoders
        deltas = new_deltas(kind, base, generator=torch.Generator(), text_encoders=encoders)
        cost = _with_evaluations(training_cost(base, deltas, recipe), kind, base, recipe)
    except (BadInput, KeyError, TypeError):  # settings that another version of Studio wrote
        return None
    passes = recipe.accumulation * (2 if earlier.get("prior") else 1)
    return step / (passes * _batch_seconds(cost, base, recipe))


def _samples(recipe: "Recipe") -> int:
    """How many samples are drawn."""
    rounds = 1 + (recipe.steps - 1) // recipe.sample_every if recipe.sample_every else 1
    return rounds * max(1, len(recipe.sample_prompts))


def _other_operations(
    base: "Base", recipe: "Recipe", cost: PassCost, *, pictures: int, drawn: int
) -> float:
    """Floating-point operations outside of the steps: for encoding and drawing pictures."""
    side, shot = _side(base, recipe), Shot("")
    variants = recipe.crops * (2 if recipe.flip else 1)
    rows = 2 if shot.guidance > 1 else 1
    denoising = shot.steps * rows * cost.base_forward / recipe.batch
    drawing = drawn * (denoising + decoding_cost(base, size=(side, side)).forward)
    return encoding_cost(base, size=(side, side)).forward * variants * pictures + drawing


def _peak_bytes(
    kind: "Kind",
    base: "Base",
    deltas: "dict[str, Delta]",
    recipe: "Recipe",
    cost: PassCost,
    *,
    drawing: bool,
) -> int:
    """The most memory at a time: of opening the base, of a step, and of encoding or drawing."""
    device = device_of(base).type
    decodes = isinstance(kind, Alignment)
    loaded, learning, drawing_with = _weight_bytes(base, deltas, recipe, decodes=decodes)
    parameters = [p for delta in deltas.values() for p in delta.parameters()]
    gradients = 4 * sum(p.numel() for p in parameters)
    state = sum(map(module_bytes, deltas.values())) + state_bytes(recipe.optimizer, parameters)
    state += gradients if recipe.ema else 0  # the average is as large
    largest = max(4 * prod(delta.shape) for delta in deltas.values())
    step = gradients + FRAGMENTED[device] * (cost.saved + 2 * largest)
    side = _side(base, recipe)
    if base.vae.use_tiling:
        side = min(side, int(base.vae.tile_sample_min_size))
    widest = base.vae.config["block_out_channels"][0] * side**2 * base.vae.dtype.itemsize
    vae = widest * (DECODING if drawing else ENCODING)
    return int(PROCESS[device] + max(loaded, learning + state + step, drawing_with + state + vae))


def _weight_bytes(
    base: "Base", deltas: "dict[str, Delta]", recipe: "Recipe", *, decodes: bool
) -> tuple[int, int, int]:
    """Bytes of the base's weights on the device: after opening, in a step, and while drawing."""
    on_gpu = has_own_memory(device_of(base))
    unet, vae, *encoders = map(module_bytes, (base.unet, base.vae, *base.text_encoders))
    loaded = max(unet, vae, *encoders) if base.offload else unet + vae + sum(encoders)
    if not on_gpu:
        return loaded, loaded, loaded
    trains_text = recipe.new_tokens > 0 or any(not name.startswith("unet.") for name in deltas)
    learning = unet + (sum(encoders) if trains_text else 0) + (vae if decodes else 0)
    drawing = max(unet, vae, *encoders) if base.offload else unet + vae + sum(encoders)
    return (0 if base.offload else loaded), learning, drawing


def _side(base: "Base", recipe: "Recipe") -> int:
    return recipe.size or base.size
