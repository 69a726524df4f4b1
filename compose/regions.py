"""Regions: each adapter draws one part of the picture, with its own prompt if there is one.

Our combination of two papers. MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113, equation 5)
averages predictions where they overlap; Mixture of Diffusers (Barbero Jimenez 2023, arXiv
2302.02412) gives each region a prompt. The prediction is the sum over j of M_j eps(mix_j,
prompt_j). The masks M_j have the size of the latents and soft edges; together with the mask of the
rest, the picture outside of all regions, they sum to 1. The rest is drawn by the plain merge with
the shot's prompt. A step costs one evaluation for each region, and one for the rest if there is
any. Evaluations of the same size run in one batch.

Predictions are mixed after guidance. As guidance is linear, that is the same as mixing the
predictions with the prompt and without. In the first steps (`apart`) the UNet sees each region as a
crop of its own, so that what it draws is composed for that region. After them the crops overlap and
are blended where they do, as in both papers: otherwise the picture has seams. With `apart` 0 every
region sees the whole picture. `whole` adds a share of the rest's prediction inside of all regions.
That ties the regions together, and lets all adapters act in them.

Regions are a field of the shot, see studio/requests/regions.py. An adapter that no region names
acts everywhere, such as a style. With masks="attention" the regions are found in the first third of
the steps, see compose/engine/regions/finding.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Lt

from compose.engine.method import Eps, Method, MethodAdapter, Mix, Part, check_places
from compose.engine.regions.concepts import Concept, concepts_of
from compose.engine.regions.crops import WHOLE, Box, Grid, covering
from compose.merge import Merge
from studio.errors import BadInput
from studio.requests.recipe import Share
from studio.requests.regions import FOUND, Region, bounding_box, read_region, region_text
from studio.requests.validation import check, option

if TYPE_CHECKING:
    from torch import Tensor

    from compose.engine.regions.masks import Masks
    from studio.adapters.adapter import Adapter

OVERLAP = 1 / 8  # share of the picture's shorter side by which a crop reaches into its neighbours
SCHEDULE_GRID = Grid(64, 64)  # the size of the latents for which a schedule is made


@dataclass(frozen=True)
class Regions:
    """Draws each adapter in a region: the shot's `regions`, or areas that attention finds."""

    blur: Annotated[float, Ge(0), Lt(1)] = option(
        0.05, "width of the soft edges, as a share of the picture's shorter side"
    )
    whole: Annotated[float, Ge(0), Lt(1)] = option(
        0.0, "how much the main prompt and all adapters count inside regions"
    )
    rest: Literal["merge", "base"] = option(
        "merge", "what is drawn outside: all adapters, or none that has a region"
    )
    apart: Share = option(
        0.8,
        "share of the steps, from the first, in which a region sees nothing of its neighbours; "
        "at 0 every region sees the whole picture",
        before=0.0,
    )
    masks: Literal["drawn", "attention"] = option(
        "drawn",
        "attention finds the regions by each adapter's trigger words in the prompt; the first "
        "third of the steps is then drawn twice",
    )
    contrast: Share = option(
        0.0,
        "with masks attention: moves the latents so that the attention of different trigger words "
        "overlaps less (CLoRA), such as 0.1; takes half as long again, and as much memory as a "
        "training",
    )

    @property
    def finds(self) -> bool:
        """Whether the regions are found by attention."""
        return self.masks == "attention"

    def in_regions(self, regions: Sequence[str]) -> Method:
        """The same method with a shot's regions."""
        read = tuple(map(read_region, regions))
        return FoundRegions(self, read) if self.finds else InRegions(self, read)

    def check(self, adapters: "Sequence[Adapter]") -> None:
        """Raise BadInput: without the shot's regions nothing can be drawn."""
        self.in_regions(()).check(adapters)

    def prepare(self, adapters: Sequence[MethodAdapter], steps: int) -> "SideBySide":
        return InRegions(self, ()).prepare(adapters, steps)

    def check_options(self) -> None:
        """Raise BadInput for an option out of range, and for contrast without masks attention."""
        check(self)
        if self.contrast and not self.finds:
            raise BadInput("contrast: it acts on what attention finds: take masks attention too")


@dataclass(frozen=True)
class InRegions:
    """The method with the drawn regions of one shot; see Method."""

    options: Regions
    regions: tuple[Region, ...]

    def check(self, adapters: "Sequence[Adapter]") -> None:
        """Every region has an area, and names adapters of the shot."""
        if not self.regions:
            raise BadInput(
                "regions: say where each adapter is drawn, such as 0,0,0.5,1 for the first one and "
                "0.5,0,1,1 for the second; or have it found, with masks attention"
            )
        self.options.check_options()
        for region in self.regions:
            if region.found:
                raise BadInput(
                    f"regions: {region_text(region)!r} is to be found, which needs masks "
                    "attention; a file of that name is written as ./found"
                )
            check_places("regions", region.adapters or (), len(adapters))

    def prepare(self, adapters: Sequence[MethodAdapter], steps: int) -> "SideBySide":
        own = own_adapters(self.regions, len(adapters))
        everywhere = set(range(len(adapters))).difference(*own)
        drawn = [
            (_mix(adapters, everywhere | places), region.prompt)
            for places, region in zip(own, self.regions, strict=True)
        ]
        areas = self.areas(SCHEDULE_GRID)
        if len(areas) > 2 * len(drawn):
            outside = set(range(len(adapters))) if self.options.rest == "merge" else everywhere
            drawn.append((_mix(adapters, outside), None))
        shares = tuple(map(float, areas.mean((1, 2))))
        apart = round(self.options.apart * steps)
        return SideBySide(tuple(drawn), self.crops(len(drawn)), shares, apart, self)

    def crops(self, count: int) -> tuple[tuple[Box, ...], tuple[Box, ...]]:
        """The crops in the first steps, and those after them.

        One for each region, and one for the rest where `count` is larger than their number.
        """
        if not self.options.apart:
            return (WHOLE,) * count, (WHOLE,) * count
        own = tuple(Box(*bounding_box(region)) for region in self.regions)
        own = covering(own) if count == len(own) else (*own, WHOLE)
        return own, tuple(box._replace(margin=OVERLAP) for box in own)

    def areas(self, grid: Grid) -> "Masks":
        """The weight of each region, and of the rest if there is any, at each latent pixel.

        [2 N, h, w]: first the N masks of the first steps, then the N masks of the steps after them.
        """
        import numpy as np

        from compose.engine.regions.masks import cropped, region_masks

        options = self.options
        masks = region_masks(self.regions, grid.side, blur=options.blur, whole=options.whole)
        return np.concatenate([cropped(masks, boxes, grid) for boxes in self.crops(len(masks))])


@dataclass(frozen=True)
class FoundRegions:
    """The method with regions that attention finds; see FindingMethod."""

    options: Regions
    regions: tuple[Region, ...]

    def check(self, adapters: "Sequence[Adapter]") -> None:
        """Every region is one to be found, and names adapters of the shot."""
        self.options.check_options()
        if not (adapters or self.regions):
            raise BadInput("regions: there is no adapter whose trigger words could be looked for")
        for region in self.regions:
            if not region.found:
                raise BadInput(
                    f"regions: masks attention finds areas: write {FOUND} in the place of the box "
                    "or the mask, or take masks drawn"
                )
            check_places("regions", region.adapters or (), len(adapters))

    def prepare(self, adapters: Sequence[MethodAdapter], steps: int) -> "SideBySide":
        """A plan in which every region has the whole picture, as its place isn't known yet."""
        everywhere = tuple(replace(each, box=WHOLE[:4]) for each in self._of(len(adapters)))
        return InRegions(self.drawn, everywhere).prepare(adapters, steps)

    @property
    def finding(self) -> Merge:
        """The method for the steps in which regions are found."""
        return Merge()

    @property
    def drawn(self) -> Regions:
        """The method for the picture, once its regions are found."""
        return replace(self.options, masks="drawn", contrast=0.0)

    @property
    def contrast(self) -> float:
        """How far the latents are moved; 0 for not at all."""
        return self.options.contrast

    def concepts(self, adapters: "Sequence[Adapter]", prompt: str) -> tuple[Concept, ...]:
        """What to look for. Raises BadInput where the prompt has no words for it."""
        regions = self._of(len(adapters))
        places = [sorted(own) for own in own_adapters(regions, len(adapters))]
        return concepts_of(regions, places, adapters, prompt)

    def placed(self, masks: Sequence[str], prompts: Sequence[str]) -> tuple[str, ...]:
        """The regions as texts. masks: the mask of each region, as `mask_address` writes it."""
        regions = self._of(len(masks))
        return tuple(
            region_text(Region(None, mask, prompt, region.adapters))
            for region, mask, prompt in zip(regions, masks, prompts, strict=True)
        )

    def _of(self, adapters: int) -> tuple[Region, ...]:
        """The shot's regions; where it has none, one for each adapter."""
        return self.regions or (Region(),) * adapters


def own_adapters(regions: Sequence[Region], count: int) -> list[set[int]]:
    """The places, from 0, of each region's adapters.

    A region that names no adapter has the one of its own number, if there is one.
    """
    return [
        ({number} if number < count else set())
        if region.adapters is None
        else {place - 1 for place in region.adapters}
        for number, region in enumerate(regions)
    ]


@dataclass(frozen=True)
class SideBySide:
    """The plan: every region, and behind them the rest if there is any, is evaluated at each step.

    asked: the mix and the prompt of each evaluation.  crops: what each sees in the first steps, and
    after them.  shares: the mean of each of `areas`, for a schedule, which has no picture.  apart:
    the number of first steps.
    """

    asked: tuple[tuple[Mix, str | None], ...]
    crops: tuple[tuple[Box, ...], tuple[Box, ...]]
    shares: tuple[float, ...]
    apart: int
    method: InRegions

    def areas(self, grid: Grid) -> "Tensor":
        """[2 N, 1, 1, h, w]; see InRegions.areas."""
        import torch

        return torch.from_numpy(self.method.areas(grid))[:, None, None]

    def predict(self, step: int, eps: Eps) -> "Tensor":
        """The sum of the predictions, each multiplied by its mask."""
        after = step >= self.apart
        count = len(self.asked)
        areas = eps.areas[count:] if after else eps.areas[:count]
        parts = [
            area * eps(mix, prompt=prompt, box=None if box.is_whole else box)
            for area, (mix, prompt), box in zip(areas, self.asked, self.crops[after], strict=True)
        ]
        return sum(parts[1:], parts[0])


def _mix(adapters: Sequence[MethodAdapter], places: set[int]) -> Mix:
    return Mix(tuple(Part(place, adapters[place].strength) for place in sorted(places)))
