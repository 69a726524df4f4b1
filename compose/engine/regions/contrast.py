"""CLoRA's contrastive update: latents are moved so that concepts get attention in separate places.

Meral et al. 2024, arXiv 2403.19776, section 3. A branch is the UNet under one adapter, or under
none. The cross-attention maps of every concept in every branch enter an NT-Xent loss L with a
temperature of 0.5: maps of one concept are pulled together, maps of two concepts pushed apart. Then
z <- z - a grad L at the steps 0, 10 and 20 of 50.

Our deviations: branches differ in the UNet only and share the text embedding of the merge, since
learned words must be at the same tokens in all of them. And the gradient is scaled to the size of
the latents, as its own size depends on that of the picture: `a` is a share of the latents' size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.5
SHARES = (0.0, 0.2, 0.4)  # the steps of an update, as shares of all steps


@dataclass(frozen=True, eq=False)
class Contrast:
    """Moves a picture's latents.

    amount: how far, as a share of the latents' RMS.  steps: of the whole picture.
    maps: takes scaled latents [1, 4, h, w] and a timestep; gives the attention of each branch to
    each concept, [branches, N, h', w'], with gradients.
    """

    amount: float
    steps: int
    maps: Callable[[Tensor, Tensor], Tensor]

    def acts(self, step: int) -> bool:
        return step in {round(share * self.steps) for share in SHARES}

    def moved(self, latents: Tensor, timestep: Tensor, scale: Callable[[Tensor], Tensor]) -> Tensor:
        """The latents [1, 4, h, w] after the update. scale: turns latents into the UNet's input."""
        with torch.enable_grad():
            start = latents.detach().requires_grad_()
            loss = contrastive_loss(self.maps(scale(start), timestep))
            (gradient,) = torch.autograd.grad(loss, start)
        size = gradient.square().mean().sqrt()
        if not (torch.isfinite(size) and size > 0):
            return latents
        return latents - self.amount * latents.square().mean().sqrt() / size * gradient


def contrastive_loss(maps: Tensor) -> Tensor:
    """The NT-Xent loss of maps [branches, N, h, w]; positive pairs are maps of one concept."""
    branches, count = maps.shape[:2]
    flat = F.normalize(maps.flatten(2).flatten(0, 1), dim=1)
    like = flat @ flat.T / TEMPERATURE
    concept = torch.arange(branches * count, device=maps.device) % count
    same = concept[:, None] == concept
    others = like.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
    losses = torch.logaddexp(like, others) - like
    return losses[same & ~torch.eye(len(flat), dtype=torch.bool, device=maps.device)].mean()
