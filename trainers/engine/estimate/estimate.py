"""An estimate of a training before it starts: its memory and its time.

Memory is counted: the weights, what is trained with its gradients and the optimizer's state, and
what autograd saves of a pass (trainers/engine/estimate/memory_model.py). Time is that of an earlier
or running training of the same settings, or else the number of operations at the speed of one on
the same base, or else at a speed that is measured for a moment. tests/benchmarks/estimates.py
prints how far both are from what trainings take.
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

# What a step takes, as parts of what is said, by where that was learned.
SPREAD = {"same": (0.85, 1.2), "similar": (0.6, 1.6), "measured": (0.5, 2.0)}
Source = Literal["same", "similar", "measured"]
# By how much fragmentation makes an allocator take more than it was asked for.
FRAGMENTED = {"cpu": 1.25, "cuda": 1.05}
# How many of the VAE's widest tensor, [channels of its first block, H, W], are needed at once.
ENCODING, DECODING = 5, 8
# What a call of the forward pass costs, in the plainest of calls: Python's modules around it, its
# backward pass, its part of the optimizer. And what a byte written there costs, in bytes that an
# activation writes: those of the backward pass, and reading. Fitted on sketch, in processor time; a
# GPU's call, where the plainest is a launch already, to one LoRA training of SDXL on an H100.
PER_CALL, PER_BYTE = {"cpu": 7.5, "cuda": 3.2}, 10


@dataclass(frozen=True)
class Estimate:
    """Time and memory that a training will take. str() gives a sentence."""

    seconds: float
    """from the first picture encoded to the adapter's file"""
    bytes: int
    """the most memory at a time: of the process on a CPU, of the GPU on one"""
    step: float
    """seconds per step"""
    source: Source
    """whose step time it is: of a training of the same settings, of one on the same base, or by a
    speed that was measured for a moment"""
    free: int | None
    """bytes that are free now; None if the system does not say"""

    @property
    def fits(self) -> bool:
        """Whether so much memory is free."""
        return self.free is None or self.bytes <= self.free

    def __str__(self) -> str:
        time = f"about {format_duration(self.seconds)}"
        if self.source != "same":
            least, most = (part * self.seconds for part in SPREAD[self.source])
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
    settings = settings_of(kind, base, recipe, prior=prior)
    known = find_step_time(Path(runs), settings)
    recipe = replace(recipe, batch=-(-recipe.batch // world_size()))  # that of each process
    one = training_cost(base, deltas, recipe)
    cost = _with_evaluations(one, kind, base, recipe)
    step, source = known, "same"
    if step is None:
        step = _batch_seconds(cost, base, recipe) * passes
        faster = _faster_than_measured(Path(runs), settings, base, recipe)
        step, source = (step, "measured") if faster is None else (step * faster, "similar")
    # Whatever else is encoded and drawn goes as fast as what is trained.
    drawn = _samples(recipe) if drawing else 0
    drawn += recipe.prior_count if recipe.prior_class is not None and not prior_pictures else 0
    learned = 0 if isinstance(kind, PromptKind) else pictures
    others = _other_operations(base, recipe, one, pictures=learned, drawn=drawn)
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


def _with_evaluations(cost: PassCost, kind: "Kind", base: "Base", recipe: "Recipe") -> PassCost:
    """A batch with all evaluations of the UNet, and of the decoder, of a kind without pictures."""
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
    """Seconds of a batch, forward and backward, at this machine's speed of the moment."""
    half = recipe.precision in AUTOCAST or base.dtype != torch.float32
    side = _side(base, recipe) // base.latent_factor
    speed = measure_speed(base, side=side, batch=recipe.batch, half=half)
    calling = PER_CALL[device_of(base).type] * cost.calls * speed.call
    return calling + cost.operations / speed.flops + PER_BYTE * cost.written / speed.written


def _faster_than_measured(
    runs: Path, settings: Mapping[str, object], base: "Base", recipe: "Recipe"
) -> float | None:
    """What a step of a training on this base took, as a part of what would be measured for it.

    None where there is no such training.
    """
    found = find_similar(runs, settings)
    if found is None:
        return None
    then, step = found
    try:
        kind = kind_of(TrainingRequest(then["kind"], options=then["options"])).for_base(base)
        given = {name: then[name] for name in DECIDING}
        given["batch"] = -(-given["batch"] // world_size())
        recipe = with_options(recipe, given)
        encoders = recipe.text_encoders
        deltas = new_deltas(kind, base, generator=torch.Generator(), text_encoders=encoders)
        cost = _with_evaluations(training_cost(base, deltas, recipe), kind, base, recipe)
    except (BadInput, KeyError, TypeError):  # another Studio's settings
        return None
    passes = recipe.accumulation * (2 if then.get("prior") else 1)
    return step / (passes * _batch_seconds(cost, base, recipe))


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
    """The most memory at a time: while pictures are encoded, learned from, or drawn."""
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
    """Bytes of the base's weights when it is opened, in the steps, and while the VAE works."""
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
