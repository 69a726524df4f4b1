"""Whether an adapter adds detail or smooths: what CMLoRA orders adapters by.

The paper ranks adapters by how they change the latents' energy above 0.2 of the highest frequency
(arXiv 2502.04923; no program for it is published). Here the same noise is denoised with the adapter
and without, and the logarithms of the mean amplitude there are subtracted.
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

CUT = 0.2  # of Nyquist's frequency


def profiled(base: "Base", adapter: "Adapter", *, steps: int = 10, pictures: int = 2) -> "Adapter":
    """A copy whose recipe holds `frequency_rise`; saved, it need not be measured again.

    Raises BadInput for an adapter that doesn't fit the base or whose latents are no numbers.
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
    """The logarithm of the mean amplitude of [1, C, h, w] above the cut, whatever h and w."""
    rows, columns = (2 * torch.fft.fftfreq(side) for side in latents.shape[-2:])
    above = (rows[:, None] ** 2 + columns**2).sqrt() >= CUT
    amplitude = torch.fft.fft2(latents.float().cpu()).abs()
    return float(amplitude[..., above].mean().log())


def _latents(base: "Base", shot: Shot) -> Tensor:
    (done,) = (event for event in denoise(base, shot) if isinstance(event, Done))
    return done.latents
