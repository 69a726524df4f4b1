"""Regions: each adapter, with a prompt of its own if wished, has a part of the picture.

Ours, by the fusion of MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113, equation 5: where
predictions overlap, their mean) and the region prompts of Mixture of Diffusers (Barbero Jimenez
2023, arXiv 2302.02412): eps = sum over j of M_j eps(mix_j, prompt_j), with masks M_j of the size of
the latents, soft at their edges, that sum to 1 with the rest's. The rest is the plain merge under
the shot's prompt. It costs an evaluation for each region, and one for the rest where there is any,
those of one size rows of one batch.

Predictions are mixed after guidance. As guidance is linear, that is the same as mixing the
predictions with the prompt and without. In the first steps (`apart`) each region is a crop of its
own, so that what is drawn is composed for it. After them the crops overlap and are blended where
they do, as in both papers: otherwise the picture has seams. With `apart` 0 every region sees the
whole picture. `whole`, a share of the rest's prediction inside of all regions, ties them more
closely, and lets all adapters in.

Regions are a field of the shot, see studio/requests/regions.py. An adapter that no region names is
everywhere, such as a style. With masks="attention" the areas are found in the first third of the
steps, see compose/engine/regions/finding.py.
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

OVERLAP = 1 / 8  # of the picture's shorter side, by which a crop reaches into its neighbours
SCHEDULE_GRID = Grid(64, 64)  # the latents of the picture that a schedule is told of


@dataclass(frozen=True)
class Regions:
    """Where each adapter is drawn is told by the shot's `regions`, or found."""

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
        "share of the steps, from the first, before regions see a part of their neighbours; at 0 "
        "they see all of the picture",
        before=0.0,
    )
    masks: Literal["drawn", "attention"] = option(
        "drawn",
        "attention finds the regions by each adapter's trigger words in the prompt; it draws the "
        "first third of the steps once more",
    )
    contrast: Share = option(
        0.0,
        "with masks attention: moves the latents so that trigger words are attended to apart "
        "(CLoRA), such as 0.1; takes half as long again, and as much memory as a training",
    )

    @property
    def finds(self) -> bool:
        """Whether the regions are found while a picture is drawn."""
        return self.masks == "attention"

    def in_regions(self, regions: Sequence[str]) -> Method:
        """The same method with a shot's regions."""
        read = tuple(map(read_region, regions))
        return FoundRegions(self, read) if self.finds else InRegions(self, read)

    def check(self, adapters: "Sequence[Adapter]") -> None:
        """Without regions there is nothing to draw in them."""
        self.in_regions(()).check(adapters)

    def prepare(self, adapters: Sequence[MethodAdapter], steps: int) -> "SideBySide":
        return InRegions(self, ()).prepare(adapters, steps)

    def check_options(self) -> None:
        """Raise BadInput for an option out of range, and for a contrast that nothing uses."""
        check(self)
        if self.contrast and not self.finds:
            raise BadInput("contrast: it acts on what attention finds: take masks attention too")


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
        asked = [
            (_mix(adapters, everywhere | places), region.prompt)
            for places, region in zip(own, self.regions, strict=True)
        ]
        areas = self.areas(SCHEDULE_GRID)
        if len(areas) > 2 * len(asked):
            outside = set(range(len(adapters))) if self.options.rest == "merge" else everywhere
            asked.append((_mix(adapters, outside), None))
        shares = tuple(map(float, areas.mean((1, 2))))
        apart = round(self.options.apart * steps)
        return SideBySide(tuple(asked), self.crops(len(asked)), shares, apart, self)

    def crops(self, count: int) -> tuple[tuple[Box, ...], tuple[Box, ...]]:
        """Of each region and, where count is larger, the rest: in the first steps, and after."""
        if not self.options.apart:
            return (WHOLE,) * count, (WHOLE,) * count
        own = tuple(Box(*bounding_box(region)) for region in self.regions)
        own = covering(own) if count == len(own) else (*own, WHOLE)
        return own, tuple(box._replace(margin=OVERLAP) for box in own)

    def areas(self, grid: Grid) -> "Masks":
        """How much each region, and the rest where there is one, counts in the latents' pixels.

        [2 N, h, w]: in the first steps, and behind those after them.
        """
        import numpy as np

        from compose.engine.regions.masks import cropped, region_masks

        options = self.options
        masks = region_masks(self.regions, grid.side, blur=options.blur, whole=options.whole)
        return np.concatenate([cropped(masks, boxes, grid) for boxes in self.crops(len(masks))])


@dataclass(frozen=True)
class FoundRegions:
    """The method for regions that are found; see FindingMethod."""

    options: Regions
    regions: tuple[Region, ...]

    def check(self, adapters: "Sequence[Adapter]") -> None:
        """Every region is to be found, by adapters that are there."""
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
        """As if each region had all of the picture: where it is, is not known yet."""
        everywhere = tuple(replace(one, box=WHOLE[:4]) for one in self._of(len(adapters)))
        return InRegions(self.drawn, everywhere).prepare(adapters, steps)

    @property
    def finding(self) -> Merge:
        """The method of the steps in which regions are found."""
        return Merge()

    @property
    def drawn(self) -> Regions:
        """The method of the steps after these."""
        return replace(self.options, masks="drawn", contrast=0.0)

    @property
    def contrast(self) -> float:
        """How far the latents move."""
        return self.options.contrast

    def concepts(self, adapters: "Sequence[Adapter]", prompt: str) -> tuple[Concept, ...]:
        """What to look for; BadInput where the prompt does not say it."""
        regions = self._of(len(adapters))
        places = [sorted(own) for own in own_adapters(regions, len(adapters))]
        return concepts_of(regions, places, adapters, prompt)

    def placed(self, masks: Sequence[str], prompts: Sequence[str]) -> tuple[str, ...]:
        """The regions with what was found. masks: of each, as `mask_address` writes it."""
        regions = self._of(len(masks))
        return tuple(
            region_text(Region(None, mask, prompt, region.adapters))
            for region, mask, prompt in zip(regions, masks, prompts, strict=True)
        )

    def _of(self, adapters: int) -> tuple[Region, ...]:
        """The regions, or one of each adapter where none are told."""
        return self.regions or (Region(),) * adapters


def own_adapters(regions: Sequence[Region], count: int) -> list[set[int]]:
    """Of each region the places, from 0, of the adapters it names, or that with its number."""
    return [
        ({number} if number < count else set())
        if region.adapters is None
        else {place - 1 for place in region.adapters}
        for number, region in enumerate(regions)
    ]


@dataclass(frozen=True)
class SideBySide:
    """A mix and a prompt for every region, and those of the rest behind them.

    crops: what each of them sees in the first steps, and after.  shares: how much of the picture
    each has, before there is one; as areas.  apart: how many steps are the first.
    """

    asked: tuple[tuple[Mix, str | None], ...]
    crops: tuple[tuple[Box, ...], tuple[Box, ...]]
    shares: tuple[float, ...]
    apart: int
    method: InRegions

    def areas(self, grid: Grid) -> "Tensor":
        """[2 N, 1, 1, h, w], as of InRegions."""
        import torch

        return torch.from_numpy(self.method.areas(grid))[:, None, None]

    def predict(self, step: int, eps: Eps) -> "Tensor":
        """Each where it counts, summed in their order."""
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
