"""The one place that runs the UNet: a shot's noise becomes latents, step by step.

Weights are folded only while the UNet runs: whenever the caller has control, between two steps,
after the last, or when iteration was stopped early, the base is its own self bit for bit.
"""

from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from compose._deep import keeping, reusing
from compose._fold import (
    Blend,
    Change,
    blends,
    carries_deltas,
    changed_weight,
    ingredients,
    kept_on,
)
from compose._method import Method, Mix, Plan, record
from compose._preview import fit_palette, paint
from compose.merge import Merge
from studio.base import Text
from studio.delta import folded
from studio.errors import BadInput
from studio.shot import open_picture

if TYPE_CHECKING:
    from studio.adapter import Adapter
    from studio.base import Base
    from studio.shot import Shot

__all__ = ["Done", "Step", "denoise"]


@dataclass(frozen=True, eq=False)
class Step:
    """A denoising step was made.

    step: how many are done, up to `steps`. latents: [1, 4, h, w] float32, as the scheduler left
    them. clean: what the model now takes the finished latents to be, of the same shape.
    """

    step: int
    steps: int
    latents: Tensor
    clean: Tensor
    _paint: Callable[[Tensor], Image.Image] = field(repr=False)

    def preview(self) -> Image.Image:
        """`clean` in colour, in the picture's size; costs a small matrix product, no decoder."""
        return self._paint(self.clean)


@dataclass(frozen=True, eq=False)
class Done:
    """All steps were made. latents: [1, 4, h, w] float32, to be decoded."""

    steps: int
    latents: Tensor


class Scheduler(Protocol):
    """What all of diffusers' schedulers have in common."""

    order: int
    timesteps: Tensor

    @property
    def init_noise_sigma(self) -> float | Tensor: ...

    def set_timesteps(self, steps: int, *, device: torch.device) -> None: ...

    def set_begin_index(self, begin_index: int) -> None: ...

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor: ...

    def add_noise(self, original: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...

    def step(
        self,
        predicted: Tensor,
        timestep: Tensor,
        sample: Tensor,
        *,
        generator: torch.Generator = ...,
        return_dict: bool,
    ) -> tuple[Tensor, ...]: ...


def denoise(base: "Base", shot: "Shot") -> Generator[Step | Done, None, None]:
    """Make a shot's latents: a Step after each denoising step, then one Done.

    To cancel, stop iterating. Raises BadInput at once for a shot that can't be made on this base.
    """
    shot = shot.settled(base)
    adapters = cast("tuple[tuple[Adapter, float], ...]", shot.adapters)
    method = Merge() if shot.method is None else shot.method
    if not isinstance(method, Method):
        raise BadInput(f"method: {method!r} is not a method of compose.")
    method.check([adapter for adapter, _ in adapters])
    scheduler, timesteps = _schedule(base, shot)
    steps = -(-len(timesteps) // scheduler.order)
    changes = ingredients(base, adapters)
    plan = kept_on(base).plan(method, changes, steps)
    lent = _Lent(base, shot, changes)
    lent.settle(plan, steps)
    return _steps(lent, plan, scheduler, timesteps)


def _steps(
    lent: "_Lent", plan: Plan, scheduler: Scheduler, timesteps: Tensor
) -> Generator[Step | Done, None, None]:
    order = scheduler.order  # of a second-order scheduler a step is two timesteps
    steps = -(-len(timesteps) // order)
    generator = torch.Generator().manual_seed(lent.shot.seed)
    with torch.no_grad():
        latents = _start(lent.base, lent.shot, scheduler, timesteps, generator)
    draws = "generator" in signature(scheduler.step).parameters
    advance = partial(scheduler.step, generator=generator) if draws else scheduler.step
    for step in range(steps):
        with torch.no_grad():  # not over the yield, which would switch gradients off for others
            for timestep in timesteps[step * order : (step + 1) * order]:
                scaled = scheduler.scale_model_input(latents, timestep)
                predicted = plan.predict(step, partial(lent.predict, scaled, timestep))
                clean = _clean(lent.base, scaled, predicted, timestep)
                latents = advance(predicted, timestep, latents, return_dict=False)[0]
        yield Step(step + 1, steps, latents, clean, lent.paint)
    yield Done(steps, latents)


class _Lent:
    """The base as one shot uses it: evaluates the UNet and encodes the texts under a mix."""

    def __init__(self, base: "Base", shot: "Shot", changes: list[Change]) -> None:
        self.base = base
        self.shot = shot
        self.changes = changes
        self.kept = kept_on(base)
        self.size = (cast(int, shot.height), cast(int, shot.width))
        self.reused: set[Mix] = set()
        self.deep: dict[Mix, Tensor] = {}
        # Deltas in training change unseen, so what text encoders say with them is not to be kept.
        encoders = {k: layer for k, layer in base.layers().items() if not k.startswith("unet.")}
        self._training = carries_deltas(encoders)
        self._weights: dict[Mix, dict[str, Tensor]] = {}
        self._texts: dict[Mix, Text] = {}

    def settle(self, plan: Plan, steps: int) -> None:
        """Look the whole plan over: let go of what other mixes left, note what will be reused."""
        calls = {call for calls in record(plan, steps) for call in calls}
        self.reused = {call.reuse for call in calls if call.reuse is not None}
        mixes = {call.mix for call in calls}
        weights = {entry for mix in mixes for entry in self._blends(mix, unet=True).items()}
        texts = {frozenset(self._blends(mix, unet=False).items()) for mix in mixes}
        self.kept.release(weights, texts)

    def predict(
        self, latents: Tensor, timestep: Tensor, mix: Mix, reuse: Mix | None = None
    ) -> Tensor:
        """The guided prediction [1, 4, h, w] for latents [1, 4, h, w]; see _method.Eps."""
        text = self._text(mix)
        rows = text.hidden.shape[0]
        base = self.base
        time_ids = base.time_ids(original=self.size, crop=(0, 0), target=self.size)
        with ExitStack() as stack:
            stack.enter_context(folded(base.layers(), self._worn(mix)))
            if reuse is not None:
                stack.enter_context(reusing(base.unet, self.deep[reuse]))
            deep = stack.enter_context(keeping(base.unet)) if mix in self.reused else []
            both = base.predict(latents.expand(rows, -1, -1, -1), timestep, text, time_ids=time_ids)
        if deep and reuse is None:
            self.deep[mix] = deep[0]
        if rows == 1:
            return both
        without, prompted = both.chunk(2)
        return without + self.shot.guidance * (prompted - without)

    def paint(self, latents: Tensor) -> Image.Image:
        """A quick look at latents, in the picture's size."""
        if self.kept.palette is None:
            self.kept.palette = fit_palette(self.base)
        return paint(latents, self.kept.palette, factor=self.base.latent_factor)

    def _blends(self, mix: Mix, *, unet: bool) -> dict[str, Blend]:
        return blends(mix, self.changes, unet=unet)

    def _worn(self, mix: Mix) -> dict[str, Tensor]:
        """The UNet's changed weights under a mix, by layer."""
        if mix not in self._weights:
            kept = self.kept.weights
            wanted = self._blends(mix, unet=True)
            for layer, blend in wanted.items():
                if (layer, blend) not in kept:
                    kept[layer, blend] = changed_weight(layer, blend, self.changes)
            self._weights[mix] = {layer: kept[layer, blend] for layer, blend in wanted.items()}
        return self._weights[mix]

    def _text(self, mix: Mix) -> Text:
        """hidden [2, L, D], the negative prompt first, or [1, L, D] without guidance."""
        if mix not in self._texts:
            self._texts[mix] = self._encode(self._blends(mix, unet=False))
        return self._texts[mix]

    def _encode(self, wanted: dict[str, Blend]) -> Text:
        guided = self.shot.guidance > 1
        zero = self.base.zero_negative and not self.shot.negative
        texts = [self.shot.negative] if guided and not zero else []
        found = [self._encode_one(text, wanted) for text in [*texts, self.shot.prompt]]
        if guided and zero:
            found.insert(0, _zeros(found[0]))
        pooled = [one.pooled for one in found if one.pooled is not None]
        hidden = torch.cat([one.hidden for one in found])
        return Text(hidden, torch.cat(pooled) if pooled else None)

    def _encode_one(self, text: str, wanted: dict[str, Blend]) -> Text:
        """hidden [1, L, D]; each text by itself, so that no neighbour can change its last bits."""
        layers = self.base.layers()
        key = (text, frozenset(wanted.items()))
        if key in self.kept.texts and not self._training:
            return self.kept.texts[key]
        weights = {
            layer: changed_weight(layer, blend, self.changes) for layer, blend in wanted.items()
        }
        with torch.no_grad(), folded(layers, weights):
            encoded = self.base.encode_text([text])
        if not self._training:
            self.kept.texts[key] = encoded
        return encoded


def _schedule(base: "Base", shot: "Shot") -> tuple[Scheduler, Tensor]:
    """A scheduler set to the shot's steps, and the timesteps to run: the last part for img2img."""
    scheduler = cast(Scheduler, base.scheduler(shot.scheduler))
    scheduler.set_timesteps(shot.steps, device=base.device)
    timesteps = scheduler.timesteps
    if shot.init_image is None:
        return scheduler, timesteps
    left_out = (shot.steps - int(shot.steps * shot.denoise)) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(left_out)
    return scheduler, timesteps[left_out:]


def _start(
    base: "Base",
    shot: "Shot",
    scheduler: Scheduler,
    timesteps: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """The first latents [1, 4, h, w] float32: noise, or the initial picture with noise on it."""
    width, height = cast(int, shot.width), cast(int, shot.height)
    shape = (1, 4, height // base.latent_factor, width // base.latent_factor)
    noise = torch.randn(shape, generator=generator).to(base.device)  # drawn on the CPU, always
    if shot.init_image is None:
        return noise * scheduler.init_noise_sigma
    start = shot.init_image
    picture = start if isinstance(start, Image.Image) else open_picture(start)
    resized = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(resized)).movedim(-1, 0)[None].contiguous() / 255
    # The mode of the VAE's posterior, not a draw: the noise above is the seed's first.
    latents = base.encode_pictures(2 * pixels - 1, sample=False)
    return scheduler.add_noise(latents, noise, timesteps[:1])


def _clean(base: "Base", scaled: Tensor, predicted: Tensor, timestep: Tensor) -> Tensor:
    """The finished latents this prediction points to.

    What every scheduler gives the UNet is sqrt(a) x + sqrt(1 - a) noise, a = alphas_cumprod.
    """
    signal = base.alphas_cumprod[round(float(timestep))]
    kept, noisy = signal.sqrt(), (1 - signal).sqrt()
    if base.prediction_type == "v_prediction":
        return kept * scaled - noisy * predicted
    return (scaled - noisy * predicted) / kept


def _zeros(text: Text) -> Text:
    pooled = None if text.pooled is None else torch.zeros_like(text.pooled)
    return Text(torch.zeros_like(text.hidden), pooled)
