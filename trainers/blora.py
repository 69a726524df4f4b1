"""B-LoRA (Frenkel et al. 2024, arXiv 2403.14572): content and style of one picture, apart.

A LoRA on the attention of two blocks of SDXL only, up_blocks.0.attentions.0 and .1; learned
together, the first takes the picture's content and the second its style (section 4; learned one
at a time they do not separate). One file, which `FILE:content` and `FILE:style` take one half of.
The authors train on one picture whose caption names no class, "A [v]", so that the class does not
stand in for the content: rank 64, 1000 steps, lr 5e-5.

Of one picture the style half sees the style on that content only, and the two together can draw the
picture each in its own share. `style_alone` takes them apart further, in a way of ours: every other
step of the first part teaches the content half without the style half, so that it can do without;
in the last part the style half begins anew and learns alone, from parts of the picture too small to
hold the content, at little noise, where what is in the picture is seen and need not be learned. The
learning rate takes its course in each part.

Deviations: the authors' strength multiplies both factors, so that their 0.5 is a quarter of the
change; ours is linear, as for every adapter. Blocks are matched by whole names, not by parts. The
text encoders stay as they are: what they learned would be of neither half.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Literal

from studio.adapters.blora_blocks import (
    default_blocks,
    layer_prefixes,
    layers_of_half,
    parse_blocks,
)
from studio.errors import BadInput
from trainers.engine.kind import Kind, StepPlan
from trainers.lora import LoRA

if TYPE_CHECKING:
    import torch
    from torch import nn

    from studio.adapters.delta import Delta, LowRank
    from studio.bases.base import Base
    from studio.bases.info import BaseInfo

__all__ = ["BLoRA"]


@dataclass(frozen=True)
class BLoRA(Kind):
    """Content and style of one picture in two halves. Raises BadInput for a rank below 1."""

    rank: int = field(default=64, metadata={"help": "rank r of every change"})
    alpha: float | None = field(
        default=None, metadata={"help": "changes are scaled by alpha / rank; the rank if not given"}
    )
    content: str | None = field(
        default=None,
        metadata={"help": "the UNet's blocks that learn the content, by commas; its base's"},
    )
    style: str | None = field(
        default=None,
        metadata={"help": "the UNet's blocks that learn the style, by commas; its base's"},
    )
    targets: Literal["attention", "all"] | None = field(
        default=None,
        metadata={"help": "of the blocks: attention, or all layers; all on sketch only"},
    )
    style_alone: float = field(
        default=0.0,
        metadata={"help": "share of the steps, the last, in which the style half learns alone"},
    )
    style_noise: float = field(
        default=0.35, metadata={"help": "with style_alone: the timesteps of those steps, a share"}
    )
    style_part: float = field(
        default=0.5, metadata={"help": "with style_alone: side of the parts cut from pictures"}
    )
    anyway: bool = field(
        default=False,
        metadata={"help": "train up_blocks.1 of SD 1.x or 2.x, which nobody showed to separate"},
    )

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise BadInput(f"rank is at least 1; it was given as {self.rank}")
        if not 0 <= self.style_alone < 1:
            raise BadInput(f"style_alone lies between 0 and 1; it was given as {self.style_alone}")
        for name in ("style_noise", "style_part"):
            if not 0 < getattr(self, name) <= 1:
                raise BadInput(f"{name} is above 0 and at most 1; it is {getattr(self, name)}")

    def for_base(self, base: "Base") -> "BLoRA":
        """With the blocks of this base; those of other families than SDXL only if asked for."""
        blocks = default_blocks(base.name, base.family)
        blocks |= {half: parse_blocks(own) for half in blocks if (own := getattr(self, half))}
        for half, block in ((half, block) for half, own in blocks.items() for block in own):
            if not any(name.startswith(layer_prefixes([block])) for name in base.layers()):
                raise BadInput(f"{half}: {base.name} has no block {block!r} in its UNet")
        targets = self._lora().for_base(base).targets
        content, style = (", ".join(blocks[half]) for half in ("content", "style"))
        fitted = replace(self, content=content, style=style, targets=targets)
        if base.family == "sdxl":
            return replace(fitted, anyway=False)
        if not self.anyway:
            raise BadInput(
                "that content and style sit in two blocks is a finding about SDXL, and "
                f"{base.name} is of another family: train a lora, or give --anyway (anyway=True) "
                "to train the likeliest blocks all the same"
            )
        return fitted

    def delta(
        self, name: str, layer: "nn.Module", *, generator: "torch.Generator"
    ) -> "LowRank | None":
        """A change that is nothing yet, for a projection of an attention in the two blocks."""
        blocks = default_blocks("", "sd1" if self.anyway else "sdxl")
        blocks |= {half: parse_blocks(own) for half in blocks if (own := getattr(self, half))}
        if not name.startswith(layer_prefixes(chain(*blocks.values()))):
            return None
        return self._lora().delta(name, layer, generator=generator)

    def adjust(
        self,
        layers: "Mapping[str, nn.Module]",
        deltas: "Mapping[str, Delta]",
        *,
        done: int,
        steps: int,
    ) -> bool:
        """Before the first step alone the style half forgets what it learned beside the other."""
        if not self.style_alone or done != self._joint_steps(steps):
            return False
        for name in self._style(deltas):
            change: LowRank = deltas[name]  # pyright: ignore[reportAssignmentType]
            change.up.data.zero_()
        return True

    def plan_step(self, deltas: "Mapping[str, Delta]", *, done: int, steps: int) -> StepPlan:
        """Both halves, every other step the content half alone; in the end the style half alone."""
        if not self.style_alone:
            return StepPlan()
        style, joint = self._style(deltas), self._joint_steps(steps)
        if done < joint:
            return StepPlan(detached=style if done % 2 else frozenset(), schedule=range(joint))
        return StepPlan(
            detached=frozenset(deltas) - style,
            timesteps=self.style_noise,
            patch=self.style_part,
            schedule=range(joint, steps),
        )

    def _lora(self) -> LoRA:
        return LoRA(rank=self.rank, alpha=self.alpha, targets=self.targets)

    def _joint_steps(self, steps: int) -> int:
        return round((1 - self.style_alone) * steps)

    def _style(self, deltas: "Mapping[str, Delta]") -> frozenset[str]:
        return frozenset(layers_of_half("style", deltas, {"style": parse_blocks(self.style or "")}))

    def published(self, base: "Base | BaseInfo") -> dict[str, object]:
        """As the authors train it, on one picture."""
        return {"steps": 1000, "lr": 5e-5}
