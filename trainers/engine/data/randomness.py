"""The random numbers of a training: a generator for each purpose, and a picture's draws.

A generator's seed is half of the first eight bytes (little-endian) of the SHA-256 of a text. So the
draws of a step depend only on the recipe's seed and on the step's number, and a resumed run draws
the same as one that never stopped. The texts:

    SEED/step/S           the pictures of step S, counted from 0
    SEED/prior/S          its class pictures
    SEED/order/E          the order of the pictures in epoch E
    SEED/prior order/E    the order of the class pictures
    SEED/dropout/S, SEED/penalty/S, SEED/start, SEED/tokens, crop/SHA256/N

The pictures of a step draw from its generator one after another. An option that is off draws
nothing:

    variant    randint(variants, ())        which crop and mirror image
    dropped    rand(())                     no caption if it is below caption_dropout
    timestep   randint(timesteps, ())
    posterior  randn(shape)                 latents = mean + std * posterior
    noise      randn(shape)
    offset     randn(channels, 1, 1)        noise + noise_offset * offset
    perturbed  randn(shape)                 input noise = noise + input_perturbation * perturbed
    corner     randint(rows, ()), randint(columns, ())      of a step's patch

A kind may limit a step to fewer timesteps, the cleanest, and to patches (trainers/engine/kind.py).

An offset lets a base learn pictures darker or brighter than the middle (Guttenberg 2023, "Diffusion
with offset noise"). A perturbed input looks like those that the base meets in sampling, where its
own errors add up (Ning et al. 2023, arXiv 2301.11706, algorithm 3).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor


def generator_for(*purpose: Hashable) -> torch.Generator:
    """The CPU generator for a purpose, seeded as the top of this file says."""
    digest = sha256("/".join(map(str, purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") // 2)


@dataclass(frozen=True, eq=False)
class Draws:
    """The random draws for one picture of one step."""

    variant: int
    dropped: bool
    timestep: int
    posterior: Tensor  # [4, h, w]
    noise: Tensor  # [4, h, w], to be predicted
    input_noise: Tensor  # [4, h, w], mixed with the latents


def draw_for_picture(
    generator: torch.Generator,
    *,
    shape: Sequence[int],
    variants: int,
    caption_dropout: float,
    timesteps: int,
    noise_offset: float = 0.0,
    input_perturbation: float = 0.0,
) -> Draws:
    """Draw for one picture, in the order that the top of this file lists."""
    variant, dropped = 0, False
    if variants > 1:
        variant = int(torch.randint(variants, (), generator=generator))
    if caption_dropout > 0:
        dropped = float(torch.rand((), generator=generator)) < caption_dropout
    timestep = int(torch.randint(timesteps, (), generator=generator))
    posterior = torch.randn(*shape, generator=generator)
    noise = torch.randn(*shape, generator=generator)
    if noise_offset:
        noise = noise + noise_offset * torch.randn(shape[0], 1, 1, generator=generator)
    input_noise = noise
    if input_perturbation:
        input_noise = noise + input_perturbation * torch.randn(*shape, generator=generator)
    return Draws(variant, dropped, timestep, posterior, noise, input_noise)


@dataclass(frozen=True)
class Patch:
    """A rectangle of a picture's latents: its top left corner and its sides, in latents."""

    top: int
    left: int
    height: int
    width: int

    def crop(self, latents: Tensor) -> Tensor:
        """The latents inside of the patch: [..., H, W] -> [..., height, width]."""
        rows = slice(self.top, self.top + self.height)
        return latents[..., rows, self.left : self.left + self.width]


def draw_patch(
    generator: torch.Generator, *, height: int, width: int, scale: float, step: int
) -> Patch:
    """A patch of latents [height, width] at a random position.

    scale: the patch's sides as a share of those. step: the sides are multiples of it, 1 or more.
    """
    rows, columns = (max(step, int(side * scale) // step * step) for side in (height, width))
    top = int(torch.randint(height - rows + 1, (), generator=generator))
    left = int(torch.randint(width - columns + 1, (), generator=generator))
    return Patch(top, left, rows, columns)
