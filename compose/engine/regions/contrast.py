"""CLoRA's contrastive update: latents move so that concepts are attended to in places of their own.

Meral et al. 2024, arXiv 2403.19776, section 3: cross-attention maps of every concept under every
adapter (a branch, and one without any) are pulled together where they show one concept and pushed
apart where they show two, by the NT-Xent loss at a temperature of 0.5; then z <- z - a grad L at
the steps 0, 10 and 20 of 50. Here branches differ in the UNet alone: all have the text embedding
of the merge, since learned words must have one place in all of them. And as the gradient's size
depends on the size of the picture, it is brought to that of the latents: z moves by a share of
itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.5
SHARES = (0.0, 0.2, 0.4)  # of the steps


@dataclass(frozen=True, eq=False)
class Contrast:
    """How a picture's latents are moved.

    amount: how far, as a share of their size.  steps: of the whole picture.
    maps: from scaled latents [1, 4, h, w] and a timestep the attention of each branch to each
    concept, [branches, N, h', w'], with gradients.
    """

    amount: float
    steps: int
    maps: Callable[[Tensor, Tensor], Tensor]

    def acts(self, step: int) -> bool:
        return step in {round(share * self.steps) for share in SHARES}

    def moved(self, latents: Tensor, timestep: Tensor, scale: Callable[[Tensor], Tensor]) -> Tensor:
        """The latents [1, 4, h, w] after the update. scale: what the UNet is given of them."""
        with torch.enable_grad():
            start = latents.detach().requires_grad_()
            loss = contrastive_loss(self.maps(scale(start), timestep))
            (gradient,) = torch.autograd.grad(loss, start)
        size = gradient.square().mean().sqrt()
        if not (torch.isfinite(size) and size > 0):
            return latents
        return latents - self.amount * latents.square().mean().sqrt() / size * gradient


def contrastive_loss(maps: Tensor) -> Tensor:
    """NT-Xent over maps [branches, N, h, w]: one concept's are alike, those of two are not."""
    branches, count = maps.shape[:2]
    flat = F.normalize(maps.flatten(2).flatten(0, 1), dim=1)
    like = flat @ flat.T / TEMPERATURE
    concept = torch.arange(branches * count, device=maps.device) % count
    same = concept[:, None] == concept
    others = like.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
    losses = torch.logaddexp(like, others) - like
    return losses[same & ~torch.eye(len(flat), dtype=torch.bool, device=maps.device)].mean()
