"""Regions: each adapter, with a prompt of its own if wished, has a part of the picture.

Ours, by the fusion of MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113, equation 5: where
predictions overlap, their mean) and the region prompts of Mixture of Diffusers (Barbero Jimenez
2023, arXiv 2302.02412): eps = sum over j of M_j eps(mix_j, prompt_j), with masks M_j of the size of
the latents, soft at their edges, that sum to 1 with the rest's. The rest is the plain merge under
the shot's prompt. It costs an evaluation for each region, and one for the rest where there is any,
all of them rows of one batch.

Predictions are mixed after guidance. As guidance is linear, that is the same as mixing the
predictions with the prompt and without. Every region sees the whole picture, so that neighbours
agree on one place and one light; `whole`, a share of the rest's prediction inside of all regions,
ties them more closely, and lets all adapters in.

Regions are a field of the shot, see studio/requests/regions.py. An adapter that no region names is
everywhere, such as a style.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from compose.engine.method import Eps, MethodAdapter, Mix, Part, check_places
from studio.errors import BadInput
from studio.requests.regions import Region, read_region

if TYPE_CHECKING:
    from torch import Tensor

    from compose.engine.regions.masks import Masks
    from studio.adapters.adapter import Adapter

SCHEDULE_SIDE = (64, 64)  # of the latents of the picture that a schedule is told of


@dataclass(frozen=True)
class Regions:
    """Where each adapter is drawn is told by the shot's `regions`."""

    blur: float = field(
        default=0.05,
        metadata={"help": "width of the soft edges, as a share of the picture's shorter side"},
    )
    whole: float = field(
        default=0.0,
        metadata={"help": "how much the main prompt and all adapters count inside regions"},
    )
    rest: Literal["merge", "base"] = field(
        default="merge",
        metadata={"help": "what is drawn outside: all adapters, or none that has a region"},
    )

    def in_regions(self, regions: Sequence[str]) -> "InRegions":
        """The same method with a shot's regions."""
        return InRegions(self, tuple(map(read_region, regions)))

    def check(self, adapters: "Sequence[Adapter]") -> None:
        """Without regions there is nothing to draw in them."""
        self.in_regions(()).check(adapters)

    def prepare(self, adapters: Sequence[MethodAdapter], steps: int) -> "SideBySide":
        return self.in_regions(()).prepare(adapters, steps)


@dataclass(frozen=True)
class InRegions:
    """The method for the regions of one shot; see Method."""

    options: Regions
    regions: tuple[Region, ...]

    def check(self, adapters: "Sequence[Adapter]") -> None:
        """Every region names adapters that are there."""
        if not self.regions:
            raise BadInput(
                "regions: say where each adapter is drawn, such as 0,0,0.5,1 for the first one and "
                "0.5,0,1,1 for the second"
            )
        for option, value in (("blur", self.options.blur), ("whole", self.options.whole)):
            if not 0 <= value < 1:
                raise BadInput(f"{option}: {value:g} is no share, from 0 to less than 1.")
        for region in self.regions:
            check_places("regions", region.adapters or (), len(adapters))

    def prepare(self, adapters: Sequence[MethodAdapter], steps: int) -> "SideBySide":
        own = [self._own(number, len(adapters)) for number in range(len(self.regions))]
        everywhere = set(range(len(adapters))).difference(*own)
        asked = [
            (_mix(adapters, everywhere | places), region.prompt)
            for places, region in zip(own, self.regions, strict=True)
        ]
        shares = tuple(map(float, self.masks(SCHEDULE_SIDE).mean((1, 2))))
        if len(shares) > len(asked):
            outside = set(range(len(adapters))) if self.options.rest == "merge" else everywhere
            asked.append((_mix(adapters, outside), None))
        return SideBySide(tuple(asked), shares, self)

    def masks(self, side: tuple[int, int]) -> "Masks":
        """How much each region and the rest, where there is one, count: [N, h, w]."""
        from compose.engine.regions.masks import region_masks

        options = self.options
        return region_masks(self.regions, side, blur=options.blur, whole=options.whole)

    def _own(self, number: int, count: int) -> set[int]:
        """The places, from 0, of the adapters that a region names, or of that with its number."""
        named = self.regions[number].adapters
        if named is None:
            return {number} if number < count else set()
        return {place - 1 for place in named}


@dataclass(frozen=True)
class SideBySide:
    """A mix and a prompt for every region, and those of the rest behind them.

    shares: how much of the picture each has, before there is one.
    """

    asked: tuple[tuple[Mix, str | None], ...]
    shares: tuple[float, ...]
    method: InRegions

    def areas(self, side: tuple[int, int]) -> "Tensor":
        """How much each counts in the latents' pixels: [N, 1, 1, h, w]; they sum to 1."""
        import torch

        return torch.from_numpy(self.method.masks(side))[:, None, None]

    def predict(self, step: int, eps: Eps) -> "Tensor":
        """Each where it counts, summed in their order."""
        parts = [
            area * eps(mix, prompt=prompt)
            for area, (mix, prompt) in zip(eps.areas, self.asked, strict=True)
        ]
        return sum(parts[1:], parts[0])


def _mix(adapters: Sequence[MethodAdapter], places: set[int]) -> Mix:
    return Mix(tuple(Part(place, adapters[place].strength) for place in sorted(places)))
