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

from compose.engine.evaluate import Answer, Asked, evaluate
from compose.engine.learned_words import embeddings, is_word, taking_turns, words
from compose.engine.method import Call, Eps, Method, Mix, record
from compose.engine.preview import fit_palette, paint
from compose.engine.weight_cache import (
    Blends,
    blends,
    carries_deltas,
    changed_weight,
    ingredients,
    kept_on,
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
    lent = lend(base, resolved)
    settle([lent])
    return _progress(lent, scheduler, timesteps)


def _progress(
    lent: "Lent", scheduler: Scheduler, timesteps: Tensor
) -> Generator[Step | Done, None, None]:
    steps = len(lent.asked)
    for step, (latents, clean) in enumerate(denoised([lent], scheduler, timesteps), start=1):
        yield Step(step, steps, latents, clean, lent.paint)
    yield Done(steps, latents)  # pyright: ignore[reportPossiblyUnboundVariable]


def settle(lents: "Sequence[Lent]") -> None:
    """Before the first of these shots' steps: let go of what only other shots needed."""
    kept_on(lents[0].base).steady = all(
        step == lent.asked[0] for lent in lents for step in lent.asked
    )
    calls = [(lent, call) for lent in lents for step in lent.asked for call in step]
    kept_on(lents[0].base).release(
        {lent.blends(call.mix, unet=True) for lent, call in calls},
        {lent.blends(call.mix, unet=False) for lent, call in calls},
    )


def denoised(
    lents: "Sequence[Lent]", scheduler: Scheduler, timesteps: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """After each step the latents of these shots and what they are taken to become, [N, 4, h, w].

    lents: of one base and size, for which scheduler and timesteps are the same.
    """
    order = scheduler.order  # of a second-order scheduler a step is two timesteps
    base = lents[0].base
    draws = [torch.Generator().manual_seed(lent.shot.seed) for lent in lents]
    with torch.no_grad():
        latents = torch.cat(
            [
                _start(base, lent.resolved, scheduler, timesteps, draw)
                for lent, draw in zip(lents, draws, strict=True)
            ]
        )
    advance: Callable[..., tuple[Tensor, ...]] = scheduler.step
    if "generator" in signature(scheduler.step).parameters:
        advance = partial(advance, generator=draws if len(draws) > 1 else draws[0])
    for step in range(len(lents[0].asked)):
        with torch.no_grad():  # not over the yield, which would switch gradients off for others
            for timestep in timesteps[step * order : (step + 1) * order]:
                scaled = scheduler.scale_model_input(latents, timestep)
                predicted = _predicted(lents, scaled, timestep, step)
                clean = _clean(base, scaled, predicted, timestep)
                latents = advance(predicted, timestep, latents, return_dict=False)[0]
        yield latents, clean  # pyright: ignore[reportPossiblyUnboundVariable]


def _predicted(lents: "Sequence[Lent]", scaled: Tensor, timestep: Tensor, step: int) -> Tensor:
    """The guided predictions [N, 4, h, w]; what a step will ask for is evaluated all at once."""
    rows = scaled.split(1)
    asked = [
        (at, call, lent.ask(call, row, timestep))
        for at, (lent, row) in enumerate(zip(lents, rows, strict=True))
        for call in lent.asked[step]
    ]
    found = evaluate(lents[0].base, [question for _, _, question in asked])
    answers: list[dict[Call, Tensor]] = [{} for _ in lents]
    for (at, call, _), answer in zip(asked, found, strict=True):
        answers[at][call] = lents[at].hear(call, answer)
    return torch.cat(
        [
            lent.plan.predict(step, lent.eps(row, timestep, heard))
            for lent, row, heard in zip(lents, rows, answers, strict=True)
        ]
    )


class Lent:
    """The base as one shot uses it: what its method asks for, what that means, its texts.

    asked: the calls of each step. Raises BadInput where the method can't use the adapters.
    """

    def __init__(self, base: "Base", resolved: ResolvedShot, *, steps: int) -> None:
        shot = resolved.shot
        adapters, beside = taking_turns(resolved.adapters)
        method = Merge() if shot.method is None else shot.method
        if not isinstance(method, Method):
            raise BadInput(f"method: {method!r} is not a method of compose.")
        method.check([adapter for adapter, _ in adapters])
        self.base = base
        self.resolved, self.shot = resolved, shot
        self.changes = ingredients(base, adapters)
        self.beside = ingredients(base, beside)  # in every mix, for what they let prompts say
        self.kept = kept_on(base)
        self.plan = self.kept.plan(method, self.changes, steps)
        self.asked = record(self.plan, steps)
        self.reused = {call.reuse for step in self.asked for call in step if call.reuse is not None}
        size = (resolved.height, resolved.width)
        self.time_ids = base.time_ids(original=size, crop=(0, 0), target=size)
        self.deep: dict[Mix, Tensor] = {}
        # What trains changes unseen, so what text encoders say with it is not to be kept.
        encoders = {k: layer for k, layer in base.layers().items() if not k.startswith("unet.")}
        self._training = carries_deltas(encoders) or bool(base.learned_words)
        self._blends: dict[tuple[Mix, bool], Blends] = {}
        self._texts: dict[Blends, TextEmbedding] = {}

    def eps(self, latents: Tensor, timestep: Tensor, answers: dict[Call, Tensor]) -> Eps:
        """Evaluates the UNet at scaled latents [1, 4, h, w], where it was not done before."""

        def eps(mix: Mix, reuse: Mix | None = None) -> Tensor:
            call = Call(mix, reuse)
            if call not in answers:
                (answer,) = evaluate(self.base, [self.ask(call, latents, timestep)])
                answers[call] = self.hear(call, answer)
            return answers[call]

        return eps

    def ask(self, call: Call, latents: Tensor, timestep: Tensor) -> Asked:
        """What answers a call at scaled latents [1, 4, h, w], to be evaluated."""
        return Asked(
            latents,
            timestep,
            self._text(call.mix),
            self.blends(call.mix, unet=True),
            time_ids=self.time_ids,
            deep=None if call.reuse is None else self.deep[call.reuse],
            keeps=call.mix in self.reused and call.reuse is None,
        )

    def hear(self, call: Call, answer: Answer) -> Tensor:
        """The guided prediction [1, 4, h, w] that a call is answered with."""
        if call.mix in self.reused and answer.deep is not None:
            self.deep[call.mix] = answer.deep
        if len(answer.noise) == 1:
            return answer.noise
        without, prompted = answer.noise.chunk(2)
        return without + self.shot.guidance * (prompted - without)

    def blends(self, mix: Mix, *, unet: bool) -> Blends:
        """What the UNet or the text encoders wear under a mix."""
        key = mix, unet
        if key not in self._blends:
            worn = blends(mix, self.changes, unet=unet)
            said = frozenset() if unet else words(mix, self.changes, self.beside)
            self._blends[key] = worn | said
        return self._blends[key]

    def paint(self, latents: Tensor) -> Image.Image:
        """A quick look at latents, in the picture's size."""
        if self.kept.palette is None:
            self.kept.palette = fit_palette(self.base)
        return paint(latents, self.kept.palette, factor=self.base.latent_factor)

    def _text(self, mix: Mix) -> TextEmbedding:
        """hidden [2, L, D], the negative prompt first, or [1, L, D] without guidance."""
        wanted = self.blends(mix, unet=False)
        if wanted not in self._texts:
            self._texts[wanted] = self._encode(wanted)
        return self._texts[wanted]

    def _encode(self, wanted: Blends) -> TextEmbedding:
        guided = self.shot.guidance > 1
        zero = self.base.zero_negative and not self.shot.negative
        texts = [self.shot.negative] if guided and not zero else []
        found = [self._encode_one(text, wanted) for text in [*texts, self.shot.prompt]]
        if guided and zero:
            found.insert(0, _zeros(found[0]))
        pooled = [one.pooled for one in found if one.pooled is not None]
        hidden = torch.cat([one.hidden for one in found])
        return TextEmbedding(hidden, torch.cat(pooled) if pooled else None)

    def _encode_one(self, text: str, wanted: Blends) -> TextEmbedding:
        """hidden [1, L, D]; each text by itself, so that no neighbour can change its last bits."""
        layers = self.base.layers()
        key = (text, wanted)
        if key in self.kept.texts and not self._training:
            return self.kept.texts[key]
        weights = {
            layer: changed_weight(layer, blend, layers, written=self.kept.written)
            for layer, blend in wanted
            if not is_word(layer)
        }
        said = embeddings(wanted)
        with torch.no_grad(), swap_weights(layers, weights), self.base.use_embeddings(said):
            encoded = self.base.encode_text([text])
        if not self._training:
            self.kept.texts[key] = encoded
        return encoded


def lend(base: "Base", resolved: ResolvedShot) -> Lent:
    """A shot ready to be denoised."""
    scheduler, timesteps = timesteps_of(base, resolved.shot)
    return Lent(base, resolved, steps=-(-len(timesteps) // scheduler.order))


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
