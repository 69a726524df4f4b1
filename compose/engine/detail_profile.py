"""Whether an adapter adds detail or smooths: CMLoRA orders adapters by this.

The paper ranks adapters by how they change the latents' energy above 0.2 of the highest frequency
(arXiv 2502.04923; no program for it is published). Here the same noise is denoised with the adapter
and without. The profile is the difference between the logarithms of the mean amplitude above that
frequency.
"""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compose.engine.denoise import Done, denoise
from studio.errors import BadInput
from studio.requests.shot import Shot

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter
    from studio.bases.base import Base

CUT = 0.2  # share of the Nyquist frequency


def profiled(base: "Base", adapter: "Adapter", *, steps: int = 10, pictures: int = 2) -> "Adapter":
    """A copy of the adapter with `frequency_rise` in its recipe: above 0 where it adds detail.

    Once the copy is saved, the adapter needn't be measured again. Raises BadInput for an adapter
    that doesn't fit the base or that makes latents of NaN or Inf.
    """
    rise = 0.0
    for seed in range(pictures):
        triggers = ", ".join(adapter.triggers)
        plain = Shot(triggers, seed=seed, steps=steps, syntax="plain")
        changed = replace(plain, adapters=((adapter, 1.0),))
        rise += (sharpness(_latents(base, changed)) - sharpness(_latents(base, plain))) / pictures
    if not math.isfinite(rise):
        raise BadInput(
            f"{adapter.path or adapter.name or 'the adapter'} gives NaN or Inf in "
            f"{base.precision}: open the base in fp32 or bf16."
        )
    return replace(adapter, recipe=adapter.recipe | {"frequency_rise": rise})


def sharpness(latents: Tensor) -> float:
    """The logarithm of the mean amplitude of latents [1, C, h, w] above the frequency CUT."""
    rows, columns = (2 * torch.fft.fftfreq(side) for side in latents.shape[-2:])
    above = (rows[:, None] ** 2 + columns**2).sqrt() >= CUT
    amplitude = torch.fft.fft2(latents.float().cpu()).abs()
    return float(amplitude[..., above].mean().log())


def _latents(base: "Base", shot: Shot) -> Tensor:
    (done,) = (event for event in denoise(base, shot) if isinstance(event, Done))
    return done.latents
