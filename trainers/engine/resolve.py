"""Resolve a request: its kind, and its recipe on a base."""

from typing import TYPE_CHECKING

from studio.dataset.prompts import check_prompts
from studio.errors import BadInput
from studio.requests.recipe import Recipe, with_options
from studio.requests.training import TrainingRequest
from studio.requests.validation import InvalidFields, build
from trainers.engine.from_prompts.distillation import Distillation
from trainers.engine.kind import SMALL, Kind, all_kinds, kind_name

if TYPE_CHECKING:
    from studio.bases.base import Base
    from studio.bases.info import BaseInfo


def kind_of(request: TrainingRequest) -> Kind:
    """The kind with the options of a request. Raises BadInput for an unknown kind or option."""
    known = all_kinds()
    if request.kind not in known:
        message = f"there is no kind {request.kind!r}: choose from {', '.join(known)}"
        raise InvalidFields(message, {"kind": message})
    return build(known[request.kind], request.options)


def drawn_with(request: TrainingRequest) -> dict[str, object]:
    """Fields of a shot with which this training's samples are drawn: a distillation's sampling."""
    kind = kind_of(request)
    return kind.sampling.fields() if isinstance(kind, Distillation) else {}


def check_learned(request: TrainingRequest) -> None:
    """Raise BadInput where a request lacks what its kind learns from, or has what it can't use."""
    unused = ("trigger", "pictures", "prior_pictures")
    if not request.from_prompts:
        unused = ("adapters", "prompts")
        if not request.trigger.strip():
            raise BadInput("trigger is empty: give the words that shall stand for what is learned")
    for name in unused:
        if getattr(request, name):
            raise BadInput(f"{name} is not used by {request.kind}: leave it out")
    if request.from_prompts:
        check_prompts(request.prompts, request.base)


def check_unused(kind: Kind, recipe: Recipe) -> None:
    """Raise BadInput where a recipe sets a field that this kind does not use."""
    default = Recipe()
    for name in sorted(kind.unused):
        if getattr(recipe, name) != getattr(default, name):
            raise BadInput(
                f"{name} is not used by {kind_name(kind)}, which learns from the base itself: "
                "leave it out"
            )


def recipe_for(base: "Base | BaseInfo", kind: Kind | None = None) -> Recipe:
    """The default recipe for a kind on a base.

    On sketch bases the text encoders have the UNet's learning rate: at the rate for full size,
    training them changed nothing; at this one, some ten more of a hundred robots were right. The
    rate of new words, from 5e-4 to 1e-2, made no difference in 30 pictures
    (tests/benchmarks/kinds.py).
    """
    if kind and kind.unused:
        return with_options(Recipe(), kind.published(base))
    if base.size <= SMALL:
        return Recipe(steps=200, batch=4, lr=2e-3, text_lr=2e-3, schedule="cosine")
    return with_options(Recipe(), kind.published(base) if kind else {})


def recipe_of(request: TrainingRequest, base: "Base | BaseInfo", kind: Kind) -> Recipe:
    """The recipe of a request on this base: its own values, and defaults for the rest."""
    return with_options(recipe_for(base, kind), request.recipe)
