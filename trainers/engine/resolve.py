"""From a request to its kind and its recipe on a base."""

from typing import TYPE_CHECKING

from studio.requests.recipe import Recipe, with_options
from studio.requests.training import TrainingRequest
from studio.requests.validation import InvalidFields, build
from trainers.engine.kind import Kind, kinds

if TYPE_CHECKING:
    from studio.bases.base import Base
    from studio.bases.info import BaseInfo

SMALL = 128  # pixels: a base of this size or less is a sketch, and learns fast


def kind_of(request: TrainingRequest) -> Kind:
    """The kind with the options of a request; BadInput where there is no such kind or option."""
    known = kinds()
    if request.kind not in known:
        message = f"there is no kind {request.kind!r}: choose from {', '.join(known)}"
        raise InvalidFields(message, {"kind": message})
    return build(known[request.kind], request.options)


def recipe_for(base: "Base | BaseInfo", kind: Kind | None = None) -> Recipe:
    """The default recipe for a kind on a base.

    On sketch the text encoders learn as fast as the UNet: at the rate for full size they bring
    nothing, at this one a robot was right in some ten of a hundred pictures more. The rate of new
    words made no difference that 30 pictures show, from 5e-4 to 1e-2 (tests/benchmarks/kinds.py).
    """
    if base.size <= SMALL:
        return Recipe(steps=200, batch=4, lr=2e-3, text_lr=2e-3, schedule="cosine")
    return with_options(Recipe(), kind.published(base) if kind else {})


def recipe_of(request: TrainingRequest, base: "Base | BaseInfo", kind: Kind) -> Recipe:
    """The recipe of a request on this base: its own values, and defaults for the rest."""
    return with_options(recipe_for(base, kind), request.recipe)
