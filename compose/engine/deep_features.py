"""Deep features of the UNet, kept from one evaluation and used in a later one (DeepCache).

Between neighbouring denoising steps the outputs of deep layers change little. A full evaluation
keeps the input that the last up block receives from the blocks below it. A later evaluation then
runs only the first down block and the last up block, and takes that input. Ma et al. 2023, arXiv
2312.00858.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from diffusers import UNet2DConditionModel
from torch import Tensor, nn


@contextmanager
def keeping(unet: UNet2DConditionModel) -> Iterator[list[Tensor]]:
    """Evaluations inside the block append their deep features [B, C, h, w] to the list."""
    kept: list[Tensor] = []

    def keep(block: nn.Module, given: tuple[object, ...], named: dict[str, Tensor]) -> None:
        kept.append(named["hidden_states"])

    hook = unet.up_blocks[-1].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield kept
    finally:
        hook.remove()


@contextmanager
def reusing(unet: UNet2DConditionModel, deep: Tensor) -> Iterator[None]:
    """Evaluations inside the block use `deep` instead of computing deep features."""

    def give(
        block: nn.Module, given: tuple[object, ...], named: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        return given, {**named, "hidden_states": deep}

    hook = unet.up_blocks[-1].register_forward_pre_hook(give, with_kwargs=True)
    skipped = [*unet.down_blocks[1:], unet.mid_block, *unet.up_blocks[:-1]]
    before = [vars(block).get("forward") for block in skipped]
    try:
        for block in unet.down_blocks[1:]:
            inside = (block.resnets, block.downsamplers or ())
            block.forward = _skipped_down(sum(len(cast(nn.ModuleList, part)) for part in inside))
        for block in (unet.mid_block, *unet.up_blocks[:-1]):
            block.forward = _skipped
        yield
    finally:
        hook.remove()
        for block, forward in zip(skipped, before, strict=True):
            vars(block).pop("forward", None)
            if forward is not None:
                block.forward = forward


def _skipped_down(residuals: int):
    # These residuals go only to up blocks that are skipped too, so only their number matters.
    def forward(hidden_states: Tensor, *given: object, **named: object):
        return hidden_states, (hidden_states,) * residuals

    return forward


def _skipped(hidden_states: Tensor, *given: object, **named: object) -> Tensor:
    return hidden_states
