"""What one step of training asks of the base: the noise it sees and the loss it pays.

Diffusion loss as in DDPM (Ho et al. 2020) on noise or on velocity (Salimans & Ho 2022), weighted
by min-SNR (Hang et al. 2023, arXiv 2303.09556, section 3.4).

Randomness is a function of the seed and the step, so that a resumed run draws what it would have
drawn. The generator of step s (counted from 0) is seeded with the first eight bytes, little end
first and halved, of SHA-256 of the text "SEED/step/S". From it each picture of the step draws in
turn, with nothing drawn for an option that is off:

    variant    randint(variants, ())        which crop and mirror image
    dropped    rand(())                     without its caption when below caption_dropout
    timestep   randint(timesteps, ())
    posterior  randn(shape)                 latents = mean + std * posterior
    noise      randn(shape)
    offset     randn(channels, 1, 1)        noise + noise_offset * offset
    shift      randn(shape)                 seen, not predicted: noise + input_perturbation * shift
    corner     randint(rows, ()), randint(columns, ())      of the part that a step cuts out

A kind may give a step fewer timesteps, the cleanest, and parts of pictures
(trainers/engine/kind.py).

An offset lets a base learn pictures darker or brighter than the middle (Guttenberg 2023, "Diffusion
with offset noise"). A perturbed input looks like those that the base meets in sampling, where its
own errors add up (Ning et al. 2023, arXiv 2301.11706, algorithm 3).

The pictures of a prior (trainers/engine/data/prior_preservation.py) draw the same from a generator
of "SEED/prior/S". The order of the pictures in round e is that of a generator of "SEED/order/E", or
"SEED/prior order/E".
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from math import floor

import torch
from torch import Tensor

__all__ = ["Chance", "Objective", "Window", "batches", "generator_for", "toss", "window"]


def generator_for(*about: Hashable) -> torch.Generator:
    """A CPU generator of its own for what is named, as the head of this file says."""
    digest = sha256("/".join(map(str, about)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") // 2)


@dataclass(frozen=True, eq=False)
class Chance:
    """What chance decides for one picture of one step."""

    variant: int
    dropped: bool
    timestep: int
    posterior: Tensor  # [4, h, w]
    noise: Tensor  # [4, h, w], what is to be predicted
    seen: Tensor  # [4, h, w], what the latents are mixed with


def toss(
    generator: torch.Generator,
    *,
    shape: Sequence[int],
    variants: int,
    caption_dropout: float,
    timesteps: int,
    noise_offset: float = 0.0,
    input_perturbation: float = 0.0,
) -> Chance:
    """Decide for one picture, in the order that the head of this file lists."""
    variant = dropped = 0
    if variants > 1:
        variant = int(torch.randint(variants, (), generator=generator))
    if caption_dropout > 0:
        dropped = float(torch.rand((), generator=generator)) < caption_dropout
    timestep = int(torch.randint(timesteps, (), generator=generator))
    posterior = torch.randn(*shape, generator=generator)
    noise = torch.randn(*shape, generator=generator)
    if noise_offset:
        noise = noise + noise_offset * torch.randn(shape[0], 1, 1, generator=generator)
    seen = noise
    if input_perturbation:
        seen = noise + input_perturbation * torch.randn(*shape, generator=generator)
    return Chance(
        variant=variant,
        dropped=bool(dropped),
        timestep=timestep,
        posterior=posterior,
        noise=noise,
        seen=seen,
    )


@dataclass(frozen=True)
class Window:
    """A part of the latents: its upper left corner and its sides, in latents."""

    top: int
    left: int
    height: int
    width: int

    def of(self, latents: Tensor) -> Tensor:
        """[..., H, W] to [..., height, width]."""
        rows = slice(self.top, self.top + self.height)
        return latents[..., rows, self.left : self.left + self.width]


def window(
    generator: torch.Generator, *, height: int, width: int, part: float, step: int
) -> Window:
    """Where to cut; height, width: of the whole. Sides are multiples of step, at least one."""
    tall, wide = (max(step, int(side * part) // step * step) for side in (height, width))
    top = int(torch.randint(height - tall + 1, (), generator=generator))
    left = int(torch.randint(width - wide + 1, (), generator=generator))
    return Window(top, left, tall, wide)


def batches(
    buckets: Sequence[Hashable],
    *,
    batch: int,
    seed: int,
    weights: Sequence[Fraction] | None = None,
    order: str = "order",
) -> Iterator[tuple[int, ...]]:
    """Batches of picture numbers, without end; buckets[n] is picture n's.

    Pictures come in a new order each time round, each as often as its weight says; each waits until
    its bucket has a full batch. So all batches are full and of one bucket, and of equal weights no
    picture is ever two rounds ahead of another of its bucket.

    weights: above 0; 1 for all when not given. order: names the generators of the order.
    """
    weights = weights or [Fraction(1)] * len(buckets)
    waiting: dict[Hashable, list[int]] = defaultdict(list)
    epoch = 0
    while True:
        coming = _round(weights, epoch)
        shuffled = torch.randperm(len(coming), generator=generator_for(seed, order, epoch))
        for number in (coming[at] for at in shuffled.tolist()):
            queue = waiting[buckets[number]]
            queue.append(number)
            if len(queue) == batch:
                yield tuple(queue)
                queue.clear()
        epoch += 1


def _round(weights: Sequence[Fraction], epoch: int) -> list[int]:
    """The numbers that come in a round, each as often as is due.

    After E rounds a picture of weight w has come E * w times, rounded up or down; with a weight
    below 1 every round brings another part of the pictures.
    """
    alike = Counter(weights)
    before: Counter[Fraction] = Counter()
    coming = []
    for number, weight in enumerate(weights):
        start = Fraction(before[weight], alike[weight])
        before[weight] += 1
        times = floor((epoch + 1) * weight + start) - floor(epoch * weight + start)
        coming += [number] * times
    return coming


class Objective:
    """The noising and the loss of one base, from tables made once.

    alphas_cumprod: [T]. prediction_type: "epsilon" or "v_prediction". min_snr: gamma, 0 for off.
    """

    def __init__(
        self, alphas_cumprod: Tensor, *, prediction_type: str, min_snr: float, device: torch.device
    ) -> None:
        alphas = alphas_cumprod.double().cpu()
        self.velocity = prediction_type == "v_prediction"
        self.signal = alphas.sqrt().float().to(device)  # [T]
        self.spread = (1 - alphas).sqrt().float().to(device)  # [T]
        weight = torch.ones_like(alphas)
        if min_snr > 0:
            # min(snr, gamma) / snr, written so that no signal at all (snr 0) is no division by 0.
            snr = alphas / (1 - alphas)
            weight = (min_snr / snr).clamp(max=1.0)
            if self.velocity:
                weight = snr.clamp(max=min_snr) / (snr + 1)
        self.weight = weight.float().to(device)  # [T]

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t of the latents: [B, 4, h, w]; timesteps: [B] on the latents' device."""
        return _rows(self.signal, timesteps) * latents + _rows(self.spread, timesteps) * noise

    def loss(
        self,
        predicted: Tensor,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        *,
        counting: Tensor | None = None,
    ) -> Tensor:
        """The weighted mean squared error of a batch, a scalar in float32.

        counting: [B, h, w], how much each latent counts; all the same when not given. A picture's
        error is their weighted mean, so that one of a small mask weighs as much as any other.
        """
        target = noise
        if self.velocity:
            signal, spread = _rows(self.signal, timesteps), _rows(self.spread, timesteps)
            target = signal * noise - spread * latents
        squared = (predicted.float() - target).square()
        if counting is None:
            error = squared.mean(dim=(1, 2, 3))  # -> [B]
        else:
            error = (squared.mean(dim=1) * counting).sum(dim=(1, 2))
            error = error / counting.sum(dim=(1, 2)).clamp(min=1e-6)  # a part may be all outside
        return (error * self.weight[timesteps]).mean()


def _rows(table: Tensor, timesteps: Tensor) -> Tensor:
    return table[timesteps].view(-1, 1, 1, 1)
