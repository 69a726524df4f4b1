"""The diffusion loss of one step, from the indices of pictures to a scalar.

DDPM's loss (Ho et al. 2020) on noise or on velocity (Salimans & Ho 2022), weighted by min-SNR (Hang
et al. 2023, arXiv 2303.09556, section 3.4).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from studio.bases.base import Base
from studio.bases.prompts import PromptReading, TextEmbedding
from studio.requests.recipe import Recipe
from trainers.engine.data.batches import Batch, training_batches
from trainers.engine.data.cache import Cache
from trainers.engine.data.dataset import Dataset
from trainers.engine.data.randomness import Draws, Patch, draw_for_picture, draw_patch
from trainers.engine.kind import StepPlan
from trainers.engine.text_encoders import encode_captions


class Objective:
    """A base's noise schedule: adds noise to latents, and weighs the error of a prediction.

    alphas_cumprod: [T]. prediction_type: "epsilon" or "v_prediction". min_snr: gamma; 0 is off.
    """

    def __init__(
        self, alphas_cumprod: Tensor, *, prediction_type: str, min_snr: float, device: torch.device
    ) -> None:
        alphas = alphas_cumprod.double().cpu()
        self.velocity = prediction_type == "v_prediction"
        self.signal = alphas.sqrt().float().to(device)  # [T]
        self.sigma = (1 - alphas).sqrt().float().to(device)  # [T]
        weight = torch.ones_like(alphas)
        if min_snr > 0:
            # min(snr, gamma) / snr, without a division by 0 where there is no signal (snr 0).
            snr = alphas / (1 - alphas)
            weight = (min_snr / snr).clamp(max=1.0)
            if self.velocity:
                weight = snr.clamp(max=min_snr) / (snr + 1)
        self.weight = weight.float().to(device)  # [T]
        # |x - x'|^2 is |noise - noise'|^2 / snr, or (1 - alpha) |v - v'|^2. At an alpha of 0 a
        # noise prediction says nothing about the picture, so 1 / alpha is limited.
        clean = 1 - alphas if self.velocity else (1 - alphas) / alphas.clamp(min=1e-6)
        self.clean_weight = clean.float().to(device)  # [T]

    @classmethod
    def of(cls, base: Base, *, min_snr: float = 0.0) -> "Objective":
        """The objective of this base, on its device."""
        kind = base.prediction_type
        return cls(base.alphas_cumprod, prediction_type=kind, min_snr=min_snr, device=base.device)

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The noisy latents x_t, [B, 4, h, w]. timesteps: [B], on the latents' device."""
        return _at(self.signal, timesteps) * latents + _at(self.sigma, timesteps) * noise

    def clean(self, predicted: Tensor, noisy: Tensor, timesteps: Tensor | int) -> Tensor:
        """The clean latents that predictions [B, 4, h, w] imply. timesteps: [B], or a number."""
        signal, sigma = _at(self.signal, timesteps), _at(self.sigma, timesteps)
        if self.velocity:
            return signal * noisy - sigma * predicted
        return (noisy - sigma * predicted) / signal

    def trailing(self, steps: int) -> list[int]:
        """The timesteps of a sampling with so many steps, from T - 1 down, and 0 at the end."""
        count, spacing = len(self.signal), len(self.signal) / steps
        return [*(round(count - index * spacing) - 1 for index in range(steps)), 0]

    def ddim_step(self, predicted: Tensor, noisy: Tensor, timestep: int, following: int) -> Tensor:
        """The latents that DDIM steps to: Song et al. 2021, arXiv 2010.02502, eq. 12 at eta 0."""
        clean = self.clean(predicted, noisy, timestep)
        noise = predicted
        if self.velocity:
            noise = self.signal[timestep] * predicted + self.sigma[timestep] * noisy
        return self.signal[following] * clean + self.sigma[following] * noise

    def loss(
        self,
        predicted: Tensor,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        *,
        mask: Tensor | None = None,
        clean: bool = False,
    ) -> Tensor:
        """The weighted mean squared error of a batch, a scalar in float32.

        clean: take the error of the predicted clean latents, without min-SNR (section 3.1 of
        ConsisLoRA, Chen et al. 2025, arXiv 2503.10614).

        mask: [B, h, w], how much each latent counts; None: all the same. A picture's error is the
        mean weighted by the mask, so a picture with a small mask counts as much as any other.
        """
        target = noise
        if self.velocity:
            signal, sigma = _at(self.signal, timesteps), _at(self.sigma, timesteps)
            target = signal * noise - sigma * latents
        squared = (predicted.float() - target).square()
        if mask is None:
            error = squared.mean(dim=(1, 2, 3))  # -> [B]
        else:
            error = (squared.mean(dim=1) * mask).sum(dim=(1, 2))
            # A patch may lie outside of the mask entirely.
            error = error / mask.sum(dim=(1, 2)).clamp(min=1e-6)
        weight = self.clean_weight if clean else self.weight
        return (error * weight[timesteps]).mean()


@dataclass(frozen=True, eq=False)
class Row:
    """One picture of a batch with its random draws, on the CPU in float32."""

    latents: Tensor  # [4, h, w]
    noise: Tensor  # [4, h, w], to be predicted
    input_noise: Tensor  # [4, h, w], mixed with the latents
    timestep: int
    caption: str
    time_ids: Tensor | None  # [6], on the base's device
    mask: Tensor | None  # [h, w] in 0 .. 1


@dataclass(eq=False)
class BatchLoss:
    """The loss of the base's predictions on pictures of the training.

    dataset: its examples have the cache's order. trains_text: encode captions at every step, with
    gradients, instead of taking cached embeddings. pieces: the number of pieces that each caption
    is encoded in.
    """

    base: Base
    recipe: Recipe
    dataset: Dataset
    cache: Cache
    _: KW_ONLY
    accelerator: Accelerator
    trains_text: bool
    pieces: int

    def __post_init__(self) -> None:
        self.examples = self.dataset.examples
        self.reading = PromptReading(self.recipe.caption_syntax, self.recipe.clip_skip)
        self.objective = Objective.of(self.base, min_snr=self.recipe.min_snr)
        self.measured: dict[str, float] = {}

    def batches(self) -> Iterator[Batch]:
        """The pictures and class pictures of each batch, without end."""
        pictures = self.dataset.pictures.examples
        classes = self.dataset.class_pictures.examples
        recipe = self.recipe
        return training_batches(pictures, classes, batch=recipe.batch, seed=recipe.seed)

    def begin(self, done: int) -> None:
        """Called before each step. Does nothing: the other losses prepare here."""

    def draw_rows(
        self,
        numbers: Sequence[int],
        places: Collection[int],
        generator: torch.Generator,
        plan: StepPlan,
    ) -> list[Row]:
        """Make the random draws of a whole batch, and return its rows at these positions.

        numbers: indices of the batch's examples.
        """
        draws = [self._draw(number, generator, plan) for number in numbers]
        return [self._row(numbers[place], *draws[place]) for place in places]

    def loss(self, rows: Sequence[Row], *, clean: bool = False) -> Tensor:
        """The mean loss of these rows, a scalar with gradients. clean: see StepPlan."""
        latents, noise = self._stack(rows, "latents"), self._stack(rows, "noise")
        timesteps = torch.tensor([row.timestep for row in rows], device=self.base.device)
        noised = self.objective.noised(latents, self._stack(rows, "input_noise"), timesteps)
        with self.accelerator.autocast():
            predicted = self.base.predict(
                noised,
                timesteps,
                self._text([row.caption for row in rows]),
                time_ids=None if rows[0].time_ids is None else self._stack(rows, "time_ids"),
            )
        mask = None
        if rows[0].mask is not None:
            mask = self._stack(rows, "mask").clamp(min=self.recipe.unmasked_weight)
        return self.objective.loss(predicted, latents, noise, timesteps, mask=mask, clean=clean)

    def _draw(self, number: int, generator: torch.Generator, plan: StepPlan) -> tuple[Draws, Patch]:
        factor = self.base.latent_factor
        width, height = (side // factor for side in self.examples[number].bucket)
        draws = draw_for_picture(
            generator,
            shape=(4, height, width),
            variants=self.cache.variants,
            caption_dropout=self.recipe.caption_dropout,
            timesteps=max(1, round(plan.timesteps * len(self.objective.signal))),
            noise_offset=self.recipe.noise_offset,
            input_perturbation=self.recipe.input_perturbation,
        )
        if plan.patch == 1:
            return draws, Patch(0, 0, height, width)
        step = self.base.step // factor
        return draws, draw_patch(generator, height=height, width=width, scale=plan.patch, step=step)

    def _row(self, number: int, draws: Draws, patch: Patch) -> Row:
        picture = self.cache.picture(number, draws.variant)
        return Row(
            latents=patch.crop(picture.mean + picture.std * draws.posterior),
            noise=patch.crop(draws.noise),
            input_noise=patch.crop(draws.input_noise),
            timestep=draws.timestep,
            caption="" if draws.dropped else self.examples[number].caption,
            time_ids=_time_ids_of_patch(picture.time_ids, patch, self.base.latent_factor),
            mask=None if picture.mask is None else patch.crop(picture.mask),
        )

    def _stack(self, rows: Sequence[Row], name: str) -> Tensor:
        return torch.stack([getattr(row, name) for row in rows]).to(self.base.device)

    def _text(self, captions: Sequence[str]) -> TextEmbedding:
        if self.trains_text:
            return encode_captions(self.base, captions, reading=self.reading, pieces=self.pieces)
        return gather_texts(self.cache, captions, self.base.device)


def _at(table: Tensor, timesteps: Tensor | int) -> Tensor:
    """The entries of a table [T] at these timesteps: [B, 1, 1, 1]."""
    return table[timesteps].view(-1, 1, 1, 1)


def gather_texts(cache: Cache, captions: Sequence[str], device: torch.device) -> TextEmbedding:
    """The cached embeddings of captions, as one batch on a device."""
    text = TextEmbedding.joined(map(cache.text, captions))
    return TextEmbedding(
        text.hidden.to(device), None if text.pooled is None else text.pooled.to(device)
    )


def _time_ids_of_patch(time_ids: Tensor | None, patch: Patch, factor: int) -> Tensor | None:
    """SDXL's time ids of a patch, [6], from those of its picture. factor: pixels per latent."""
    if time_ids is None:
        return None
    corner, sides = (patch.top, patch.left), (patch.height, patch.width)
    own = time_ids.new_tensor([factor * number for number in (*corner, *sides)])
    return torch.cat([time_ids[:2], time_ids[2:4] + own[:2], own[2:]])
