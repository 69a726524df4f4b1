"""Merge: all adapters at once, at every step.

W' = W + sum of strength x dW, the exact sum, as `set_adapters` of diffusers mixes LoRAs: nothing is
divided by the number of adapters, and no cross terms between factors arise. A text encoder's
weights are summed in the same way. One evaluation a step.

Other combinations are in compose/engine/weights/combine.py. On the whole dW, peft's `linear` and
`cat` (which lays the factors side by side, the ranks adding up) are both the exact sum. `np` keeps
the style's leading directions clear of the content (NP-LoRA).

Deliberate deviation: strength multiplies the whole change, also of DoRA, whose change is not linear
in its factors; peft scales the factors inside DoRA's norm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from compose.engine.method import Combine, InTurn, MethodAdapter, Mix, Part, check_places
from studio.errors import BadInput
from studio.requests.recipe import AtLeastOne, Share
from studio.requests.validation import check as check_options
from studio.requests.validation import option

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter


@dataclass(frozen=True)
class Merge:
    """The sum of all adapters' changes; without adapters, the plain base.

    blocks: factors of the strength in a part of the model, such as "up_blocks.0=0.5", or
    "2:text_encoder=0" for the second adapter only. Where several parts hold a layer, the one with
    the longest name counts.
    """

    combination: Literal["linear", "cat", "svd", "ties", "dare", "np"] = option(
        "linear", "how the adapters' changes are added up; cat is the same as linear"
    )
    rank: AtLeastOne = option(32, "with svd: the rank that is kept")
    density: Annotated[float, Gt(0), Le(1)] = option(
        0.5, "with ties or dare: share of each change that is kept"
    )
    seed: Annotated[int, Ge(0), Lt(2**31)] = option(
        0, "with dare: the seed that decides what is dropped"
    )
    style: tuple[int, ...] = option(
        (), "with np: numbers of the style adapters, from 1; default: the second of two"
    )
    kappa: Share = option(
        0.5, "with np: how much of the content is taken out of the style's directions"
    )
    k: AtLeastOne | None = option(
        None, "with np: how many directions of the style are kept clear; default: its rank"
    )
    blocks: tuple[str, ...] = option(
        (), "strength of blocks: BLOCK=FACTOR or ADAPTER:BLOCK=FACTOR, as 2:up_blocks.0=0.5"
    )

    def check(self, adapters: "Sequence[Adapter]") -> None:
        """Any number of adapters of any kind can be summed."""
        check_options(self)
        self._check_roles(len(adapters))
        for entry in self.blocks:
            place, block, _ = _block(entry)
            if place is not None:
                check_places("blocks", [place], len(adapters))
            named = adapters if place is None else [adapters[place - 1]]
            if not any(_inside(layer, block) for adapter in named for layer in adapter.deltas):
                raise BadInput(f"blocks: no adapter changes a layer of {block!r}.")

    def _check_roles(self, count: int) -> None:
        check_places("style", self.style, count)
        if self.combination != "np":
            return
        if count > 2 and not self.style:
            raise BadInput(
                f"np keeps a style clear of a content: say which of the {count} adapters are the "
                "style with the option style."
            )
        if count > 1 and len(set(self.style)) == count:
            raise BadInput("style: np needs a content as well; leave one adapter out of style.")

    def prepare(self, adapters: Sequence[MethodAdapter], steps: int) -> InTurn:
        if self.combination == "np":
            return InTurn((self._projected(adapters),))
        parts = (part for at, each in enumerate(adapters) for part in self._parts(at, each))
        return InTurn((Mix(tuple(parts), combine=self._combine()),))

    def _projected(self, adapters: Sequence[MethodAdapter]) -> Mix:
        """The style's parts, then the content's; the second of two adapters is the style."""
        from compose.engine.weights.combine import Projected

        places = {place - 1 for place in self.style or range(2, len(adapters) + 1)}
        parts = [part for at, each in enumerate(adapters) for part in self._parts(at, each)]
        style = [part for part in parts if part.adapter in places]
        content = [part for part in parts if part.adapter not in places]
        layers = tuple(
            frozenset(adapters[part.adapter].changed()) if part.layers is None else part.layers
            for part in style
            if part.strength  # a part without strength changes nothing, and is left out
        )
        return Mix((*style, *content), combine=Projected(layers, self.kappa, self.k))

    def _parts(self, at: int, adapter: MethodAdapter) -> list[Part]:
        """The adapter as one part, or with `blocks` as one part for each factor."""
        if not self.blocks:
            return [Part(at, adapter.strength)]
        layers: dict[float, list[str]] = {}
        for layer in adapter.changed():
            layers.setdefault(self._factor(at, layer), []).append(layer)
        return [
            Part(at, adapter.strength * factor, frozenset(inside))
            for factor, inside in layers.items()
        ]

    def _factor(self, at: int, layer: str) -> float:
        """The factor of this adapter's strength in a layer."""
        matches = [
            # Of equally long names, an entry for this adapter alone counts, then the last entry.
            (len(block), place is not None, number, factor)
            for number, (place, block, factor) in enumerate(map(_block, self.blocks))
            if place in (None, at + 1) and _inside(layer, block)
        ]
        return max(matches)[-1] if matches else 1.0

    def _combine(self) -> Combine | None:
        if self.combination in ("linear", "cat"):
            return None

        from compose.engine.weights.combine import Dare, Ties, Truncated

        match self.combination:
            case "svd":
                return Truncated(self.rank)
            case "ties":
                return Ties(self.density)
            case _:
                return Dare(self.density, self.seed)


def _block(entry: str) -> tuple[int | None, str, float]:
    """An entry of `blocks`: the adapter's number or None for all, the block, the factor."""
    place, colon, rest = entry.rpartition(":")
    block, _, factor = rest.partition("=")
    try:
        if block and (place or not colon):
            read = int(place) if colon else None, block, float(factor)
            if isfinite(read[-1]):
                return read
    except ValueError:
        pass
    raise BadInput(f"blocks: {entry!r} is not such as up_blocks.0=0.5 or 2:up_blocks.0=0.5.")


def _inside(layer: str, block: str) -> bool:
    """Whether a layer is in a block: one of the UNet, or one whose name begins with a model's."""
    return f"{layer}.".startswith((f"unet.{block}.", f"{block}."))
