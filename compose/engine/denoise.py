"""A shot's noise becomes latents, step by step.

What a method asks for at a step is known before the first (`record`), so the first question of a
step has all of them evaluated, as rows of one batch where that is worth it
(compose/engine/evaluate.py).

Weights are folded only while the UNet runs: whenever the caller has control, between two steps,
after the last, or when iteration was stopped early, the base is its own self bit for bit.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from compose.engine.evaluate import Answer, Evaluation, evaluate
from compose.engine.learned_words import embeddings, is_token, split_mixed, words
from compose.engine.method import Call, Eps, Method, Mix, record
from compose.engine.preview import fit_palette, paint
from compose.engine.weight_cache import (
    MixedWeights,
    adapters_on,
    cache_of,
    carries_deltas,
    changed_weight,
    mixed_weights,
)
from compose.merge import Merge
from studio.adapters.delta import swap_weights
from studio.bases.prompts import TextEmbedding
from studio.errors import BadInput
from studio.requests.resolved_shot import ResolvedShot, resolve

if TYPE_CHECKING:
    from studio.bases.base import Base
    from studio.requests.shot import Shot

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


def denoise(base: "Base", shot: "Shot | ResolvedShot") -> Generator[Step | Done, None, None]:
    """Make a shot's latents: a Step after each denoising step, then one Done.

    To cancel, stop iterating. Raises BadInput at once for a shot that can't be made on this base.
    """
    resolved = resolve(shot, base)
    scheduler, timesteps = timesteps_of(base, resolved.shot)
    run = start_run(base, resolved)
    drop_unused([run])
    return _progress(run, scheduler, timesteps)


def _progress(
    run: "PictureRun", scheduler: Scheduler, timesteps: Tensor
) -> Generator[Step | Done, None, None]:
    steps = len(run.calls)
    for step, (latents, clean) in enumerate(denoise_steps([run], scheduler, timesteps), start=1):
        yield Step(step, steps, latents, clean, run.paint)
    yield Done(steps, latents)  # pyright: ignore[reportPossiblyUnboundVariable]


def drop_unused(runs: "Sequence[PictureRun]") -> None:
    """Before the first of these shots' steps: let go of what only other shots needed."""
    cache_of(runs[0].base).steady = all(step == run.calls[0] for run in runs for step in run.calls)
    calls = [(run, call) for run in runs for step in run.calls for call in step]
    cache_of(runs[0].base).release(
        {run.mixed_weights(call.mix, unet=True) for run, call in calls},
        {run.mixed_weights(call.mix, unet=False) for run, call in calls},
    )


def denoise_steps(
    runs: "Sequence[PictureRun]", scheduler: Scheduler, timesteps: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """After each step the latents of these shots and what they are taken to become, [N, 4, h, w].

    runs: of one base and size, for which scheduler and timesteps are the same.
    """
    order = scheduler.order  # of a second-order scheduler a step is two timesteps
    base = runs[0].base
    draws = [torch.Generator().manual_seed(run.shot.seed) for run in runs]
    with torch.no_grad():
        latents = torch.cat(
            [
                _start(base, run.resolved, scheduler, timesteps, draw)
                for run, draw in zip(runs, draws, strict=True)
            ]
        )
    advance: Callable[..., tuple[Tensor, ...]] = scheduler.step
    if "generator" in signature(scheduler.step).parameters:
        advance = partial(advance, generator=draws if len(draws) > 1 else draws[0])
    for step in range(len(runs[0].calls)):
        with torch.no_grad():  # not over the yield, which would switch gradients off for others
            for timestep in timesteps[step * order : (step + 1) * order]:
                scaled = scheduler.scale_model_input(latents, timestep)
                predicted = _predicted(runs, scaled, timestep, step)
                clean = _clean(base, scaled, predicted, timestep)
                latents = advance(predicted, timestep, latents, return_dict=False)[0]
        yield latents, clean  # pyright: ignore[reportPossiblyUnboundVariable]


def _predicted(runs: "Sequence[PictureRun]", scaled: Tensor, timestep: Tensor, step: int) -> Tensor:
    """The guided predictions [N, 4, h, w]; all evaluations of a step run together."""
    rows = scaled.split(1)
    asked = [
        (at, call, run.evaluation(call, row, timestep))
        for at, (run, row) in enumerate(zip(runs, rows, strict=True))
        for call in run.calls[step]
    ]
    found = evaluate(runs[0].base, [question for _, _, question in asked])
    answers: list[dict[Call, Tensor]] = [{} for _ in runs]
    for (at, call, _), answer in zip(asked, found, strict=True):
        answers[at][call] = runs[at].guided(call, answer)
    return torch.cat(
        [
            run.plan.predict(step, run.eps(row, timestep, answers))
            for run, row, answers in zip(runs, rows, answers, strict=True)
        ]
    )


class PictureRun:
    """The base as one shot uses it: what its method asks for, what that means, its texts.

    asked: the calls of each step. Raises BadInput where the method can't use the adapters.
    """

    def __init__(self, base: "Base", resolved: ResolvedShot, *, steps: int) -> None:
        shot = resolved.shot
        adapters, beside = split_mixed(resolved.adapters)
        method = Merge() if shot.method is None else shot.method
        if not isinstance(method, Method):
            raise BadInput(f"method: {method!r} is not a method of compose.")
        method.check([adapter for adapter, _ in adapters])
        self.base = base
        self.resolved, self.shot = resolved, shot
        self.changes = adapters_on(base, adapters)
        self.beside = adapters_on(base, beside)  # in every mix, for what they let prompts say
        self.cache = cache_of(base)
        self.plan = self.cache.plan(method, self.changes, steps)
        self.calls = record(self.plan, steps)
        self.reused = {call.reuse for step in self.calls for call in step if call.reuse is not None}
        size = (resolved.height, resolved.width)
        self.time_ids = base.time_ids(original=size, crop=(0, 0), target=size)
        self.deep: dict[Mix, Tensor] = {}
        # What trains changes unseen, so what text encoders say with it is not to be kept.
        encoders = {k: layer for k, layer in base.layers().items() if not k.startswith("unet.")}
        self._training = carries_deltas(encoders) or bool(base.learned_words)
        self._blends: dict[tuple[Mix, bool], MixedWeights] = {}
        self._texts: dict[MixedWeights, TextEmbedding] = {}

    def eps(self, latents: Tensor, timestep: Tensor, answers: dict[Call, Tensor]) -> Eps:
        """Evaluates the UNet at scaled latents [1, 4, h, w], where it was not done before."""

        def eps(mix: Mix, reuse: Mix | None = None) -> Tensor:
            call = Call(mix, reuse)
            if call not in answers:
                (answer,) = evaluate(self.base, [self.evaluation(call, latents, timestep)])
                answers[call] = self.guided(call, answer)
            return answers[call]

        return eps

    def evaluation(self, call: Call, latents: Tensor, timestep: Tensor) -> Evaluation:
        """What answers a call at scaled latents [1, 4, h, w], to be evaluated."""
        return Evaluation(
            latents,
            timestep,
            self._text(call.mix),
            self.mixed_weights(call.mix, unet=True),
            time_ids=self.time_ids,
            deep=None if call.reuse is None else self.deep[call.reuse],
            keeps=call.mix in self.reused and call.reuse is None,
        )

    def guided(self, call: Call, answer: Answer) -> Tensor:
        """The guided prediction [1, 4, h, w] that a call is answered with."""
        if call.mix in self.reused and answer.deep is not None:
            self.deep[call.mix] = answer.deep
        if len(answer.noise) == 1:
            return answer.noise
        without, prompted = answer.noise.chunk(2)
        return without + self.shot.guidance * (prompted - without)

    def mixed_weights(self, mix: Mix, *, unet: bool) -> MixedWeights:
        """What the UNet or the text encoders wear under a mix."""
        key = mix, unet
        if key not in self._blends:
            worn = mixed_weights(mix, self.changes, unet=unet)
            said = frozenset() if unet else words(mix, self.changes, self.beside)
            self._blends[key] = worn | said
        return self._blends[key]

    def paint(self, latents: Tensor) -> Image.Image:
        """A quick look at latents, in the picture's size."""
        if self.cache.palette is None:
            self.cache.palette = fit_palette(self.base)
        return paint(latents, self.cache.palette, factor=self.base.latent_factor)

    def _text(self, mix: Mix) -> TextEmbedding:
        """hidden [2, L, D], the negative prompt first, or [1, L, D] without guidance."""
        wanted = self.mixed_weights(mix, unet=False)
        if wanted not in self._texts:
            self._texts[wanted] = self._encode(wanted)
        return self._texts[wanted]

    def _encode(self, wanted: MixedWeights) -> TextEmbedding:
        guided = self.shot.guidance > 1
        zero = self.base.zero_negative and not self.shot.negative
        texts = [self.shot.negative] if guided and not zero else []
        found = [self._encode_one(text, wanted) for text in [*texts, self.shot.prompt]]
        if guided and zero:
            found.insert(0, _zeros(found[0]))
        pooled = [one.pooled for one in found if one.pooled is not None]
        hidden = torch.cat([one.hidden for one in found])
        return TextEmbedding(hidden, torch.cat(pooled) if pooled else None)

    def _encode_one(self, text: str, wanted: MixedWeights) -> TextEmbedding:
        """hidden [1, L, D]; each text by itself, so that no neighbour can change its last bits."""
        layers = self.base.layers()
        key = (text, wanted)
        if key in self.cache.texts and not self._training:
            return self.cache.texts[key]
        weights = {
            layer: changed_weight(layer, blend, layers, written=self.cache.written)
            for layer, blend in wanted
            if not is_token(layer)
        }
        said = embeddings(wanted)
        with torch.no_grad(), swap_weights(layers, weights), self.base.use_embeddings(said):
            encoded = self.base.encode_text([text])
        if not self._training:
            self.cache.texts[key] = encoded
        return encoded


def start_run(base: "Base", resolved: ResolvedShot) -> PictureRun:
    """Make a shot ready to be denoised."""
    scheduler, timesteps = timesteps_of(base, resolved.shot)
    return PictureRun(base, resolved, steps=-(-len(timesteps) // scheduler.order))


def timesteps_of(base: "Base", shot: "Shot") -> tuple[Scheduler, Tensor]:
    """A scheduler set to the shot's steps, and the timesteps to run: the last part for img2img."""
    scheduler = cast(Scheduler, base.scheduler(shot.scheduler))
    scheduler.set_timesteps(shot.steps, device=base.device)
    timesteps = scheduler.timesteps
    if shot.init_image is None:
        return scheduler, timesteps
    left_out = (shot.steps - shot.steps_run) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(left_out)
    return scheduler, timesteps[left_out:]


def _start(
    base: "Base",
    shot: ResolvedShot,
    scheduler: Scheduler,
    timesteps: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """The first latents [1, 4, h, w] float32: noise, or the initial picture with noise on it."""
    shape = (1, 4, shot.height // base.latent_factor, shot.width // base.latent_factor)
    noise = torch.randn(shape, generator=generator).to(base.device)  # drawn on the CPU, always
    if shot.init_image is None:
        return noise * scheduler.init_noise_sigma
    picture = shot.init_image.convert("RGB")
    resized = picture.resize((shot.width, shot.height), Image.Resampling.LANCZOS)
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


def _zeros(text: TextEmbedding) -> TextEmbedding:
    pooled = None if text.pooled is None else torch.zeros_like(text.pooled)
    return TextEmbedding(torch.zeros_like(text.hidden), pooled)
