"""Where a training starts from when nothing is asked for."""

from typing import TYPE_CHECKING

from studio.requests.recipe import Recipe, with_options
from trainers.engine.kind import Kind

if TYPE_CHECKING:
    from studio.bases.base import Base
    from studio.bases.info import BaseInfo

__all__ = ["recipe_for"]

SMALL = 128  # pixels: a base of this size or less is a sketch, and learns fast


def recipe_for(base: "Base | BaseInfo", kind: Kind | None = None) -> Recipe:
    """Where a training of this kind on this base starts from when nothing is asked for.

    On sketch the text encoders learn as fast as the UNet: at the rate for full size they bring
    nothing, at this one a robot was right in some ten of a hundred pictures more. The rate of new
    words made no difference that 30 pictures show, from 5e-4 to 1e-2 (tests/benchmarks/kinds.py).
    """
    if base.size <= SMALL:
        return Recipe(steps=500, batch=8, lr=2e-3, text_lr=2e-3, schedule="cosine")
    return with_options(Recipe(), kind.published(base) if kind else {})
