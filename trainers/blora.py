"""B-LoRA (Frenkel et al. 2024, arXiv 2403.14572): learn content and style of a picture separately.

It is a LoRA on the attention of two blocks of SDXL, up_blocks.0.attentions.0 and .1. Trained
together, the first learns the picture's content and the second its style (section 4; trained one at
a time they do not separate). Both are in one file; `FILE:content` and `FILE:style` select one half.
The authors train on one picture whose caption names no class, "A [v]", so that the class does not
take the place of the content: rank 64, 1000 steps, lr 5e-5.

With one picture, the style half sees the style on one content only, and each half may learn some of
both. Our own option `style_alone` separates them further. In the first part of the training, every
other step trains the content half without the style half, so that it learns to do without. In the
last part the style half is reset and learns alone: from patches of the picture that are too small
to show the content, and at low noise, where the content is visible in the input and need not be
learned. The learning rate schedule runs once in each part.

ConsisLoRA (Chen et al. 2025, arXiv 2503.10614) separates the halves in two other ways. With
`clean_loss` the last steps learn from the error of the predicted picture, not of the noise. It is
the noise's error divided by the signal-to-noise ratio, so it weighs most where the layout is
decided. With `content_frozen` the content half stays active but frozen in the last part, and the
style half learns what remains. The authors take 2500 steps, clean_loss 0.8 and style_alone 0.4, and
a noise offset of 0.03 in the last part.

Deviations: the authors' strength multiplies both factors, so their 0.5 is a quarter of the change;
ours is linear, as for every adapter. Blocks are matched by whole names, not by parts of them. The
text encoders stay frozen: what they learn would belong to neither half.
"""

from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le, Lt

from studio.adapters.blora_blocks import (
    default_blocks,
    layer_prefixes,
    layers_of_half,
    parse_blocks,
)
from studio.errors import BadInput
from studio.requests.recipe import AtLeastOne, Positive, Share
from studio.requests.validation import option
from trainers.engine.kind import Kind, StepPlan
from trainers.lora import LoRA, Targets

if TYPE_CHECKING:
    import torch
    from torch import nn

    from studio.adapters.delta import LowRank
    from studio.bases.base import Base
    from studio.bases.info import BaseInfo
    from trainers.engine.kind import Deltas, Layers


@dataclass(frozen=True)
class BLoRA(Kind):
    """Content and style of one picture, in two halves."""

    rank: AtLeastOne = option(64, "rank of each change: how much it can hold")
    alpha: Positive | None = option(None, "changes are scaled by alpha / rank; default: the rank")
    content: str | None = option(
        None, "UNet blocks that learn the content, with commas between; default: as the base needs"
    )
    style: str | None = option(
        None, "UNet blocks that learn the style, with commas between; default: as the base needs"
    )
    targets: Targets | None = option(
        None, "layers of those blocks: attention, or all; default: attention, all on sketch"
    )
    style_alone: Annotated[float, Ge(0), Lt(1)] = option(
        0.0, "share of the steps, at the end, in which only the style half learns"
    )
    style_noise: Annotated[float, Gt(0), Le(1)] = option(
        0.35, "with style_alone: share of the noise levels to train on, from the cleanest"
    )
    style_part: Annotated[float, Gt(0), Le(1)] = option(
        0.5, "with style_alone: side of the patches, as a share of the picture's side"
    )
    content_frozen: bool = option(
        False, "with style_alone: keep the content half active but frozen, on whole pictures"
    )
    clean_loss: Share = option(
        0.0,
        "share of the steps, at the end, that learn from the picture's error, not the noise's",
    )
    anyway: bool = option(
        False, "train up_blocks.1 of SD 1.x or 2.x, though it may not separate content and style"
    )

    def for_base(self, base: "Base") -> "BLoRA":
        """This kind with the blocks of this base. Families other than SDXL need `anyway`."""
        blocks = self._blocks(base.name, base.family)
        for half, block in ((half, block) for half, own in blocks.items() for block in own):
            if not any(name.startswith(layer_prefixes([block])) for name in base.layers()):
                raise BadInput(f"{half}: {base.name} has no block {block!r} in its UNet")
        if self.content_frozen and not self.style_alone:
            raise BadInput("content_frozen needs style_alone: give that too")
        targets = self._lora().for_base(base).targets
        content, style = (", ".join(blocks[half]) for half in ("content", "style"))
        fitted = replace(self, content=content, style=style, targets=targets)
        if base.family == "sdxl":
            return replace(fitted, anyway=False)
        if not self.anyway:
            raise BadInput(
                "the blocks of content and style are known for SDXL only, and "
                f"{base.name} is of another family: train a lora, or give --anyway (anyway=True) "
                "to train the likeliest blocks"
            )
        return fitted

    def delta(
        self, name: str, layer: "nn.Module", *, generator: "torch.Generator"
    ) -> "LowRank | None":
        """A delta that starts at zero, for layers of the two blocks."""
        blocks = self._blocks("", "sd1" if self.anyway else "sdxl")
        if not name.startswith(layer_prefixes(chain(*blocks.values()))):
            return None
        return self._lora().delta(name, layer, generator=generator)

    def adjust(self, layers: "Layers", deltas: "Deltas", *, done: int, steps: int) -> bool:
        """Reset the style half before its first step alone."""
        if not self.style_alone or done != self._joint_steps(steps):
            return False
        for name in self._style(deltas):
            change: LowRank = deltas[name]  # pyright: ignore[reportAssignmentType]
            change.up.data.zero_()
        return True

    def plan_step(self, deltas: "Deltas", *, done: int, steps: int) -> StepPlan:
        """Train both halves; with `style_alone`, two parts.

        In the first part every other step trains the content half alone, unless `content_frozen`.
        In the last part only the style half learns, without the content half or, with
        `content_frozen`, with the content half frozen.
        """
        clean = done >= round((1 - self.clean_loss) * steps)
        if not self.style_alone:
            return StepPlan(clean=clean)
        style, joint = self._style(deltas), self._joint_steps(steps)
        if done < joint:
            detached = style if done % 2 and not self.content_frozen else frozenset[str]()
            return StepPlan(detached=detached, clean=clean, schedule=range(joint))
        content, last_part = frozenset(deltas) - style, range(joint, steps)
        if self.content_frozen:
            return StepPlan(frozen=content, clean=clean, schedule=last_part)
        return StepPlan(
            detached=content,
            timesteps=self.style_noise,
            patch=self.style_part,
            clean=clean,
            schedule=last_part,
        )

    def _blocks(self, base: str, family: str) -> dict[str, tuple[str, ...]]:
        """The blocks of each half: those given as options, otherwise those of the base."""
        blocks = default_blocks(base, family)
        return blocks | {half: parse_blocks(own) for half in blocks if (own := getattr(self, half))}

    def _lora(self) -> LoRA:
        return LoRA(rank=self.rank, alpha=self.alpha, targets=self.targets)

    def _joint_steps(self, steps: int) -> int:
        return round((1 - self.style_alone) * steps)

    def _style(self, deltas: "Deltas") -> frozenset[str]:
        return frozenset(layers_of_half("style", deltas, {"style": parse_blocks(self.style or "")}))

    def published(self, base: "Base | BaseInfo") -> dict[str, object]:
        """The authors' settings, for one picture."""
        return {"steps": 1000, "lr": 5e-5}
