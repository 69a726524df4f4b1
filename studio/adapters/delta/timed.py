"""T-LoRA in training: a low-rank change with fewer active ranks at more noise."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from studio.adapters.delta.layer import Layer, apply_weight, original_output, to_input_dtype
from studio.adapters.delta.low_rank import LowRank
from studio.adapters.rank_schedule import RankSchedule

if TYPE_CHECKING:
    from studio.adapters.delta import Delta


class TimedLowRank(LowRank):
    """dW(t) = scale * up @ diag(m(t)) @ down; m(t) is 1 for the first r(t) ranks, 0 for the rest.

    active: m for each row of the current batch, [B, rank], or [1, rank] for all rows. It is set by
    `tell_timesteps`; while it is None, all ranks act. Outside of training the change is a plain
    LowRank of all ranks, and the adapter holds the schedule.
    """

    schedule: RankSchedule
    active: Tensor | None = None

    @classmethod
    def of(cls, change: LowRank, schedule: RankSchedule) -> "TimedLowRank":
        """The same change with a schedule; the factors are shared."""
        factors = (change.down.data, change.up.data, change.alpha)
        timed = cls(*factors, rank_stabilised=change.rank_stabilised)
        timed.schedule = schedule
        return timed

    def _output(self, layer: Layer, x: Tensor) -> Tensor:
        if self.active is None:
            return super()._output(layer, x)
        base = original_output(layer, x)
        low = apply_weight(layer, x, to_input_dtype(self.down, x)) * self.scale
        active, up = self.active.to(low.dtype), to_input_dtype(self.up, x).flatten(1)
        if isinstance(layer, nn.Linear):
            low = low * active.view(len(active), *(1 for _ in low.shape[2:]), -1)
            return base + nn.functional.linear(low, up).to(base.dtype)
        high = nn.functional.conv2d(low * active[..., None, None], up[..., None, None])
        return base + high.to(base.dtype)


@contextmanager
def tell_timesteps(unet: nn.Module, deltas: Mapping[str, "Delta"]) -> Iterator[None]:
    """Within the block, each call of the UNet sets the active ranks from its timesteps."""
    timed = [delta for delta in deltas.values() if isinstance(delta, TimedLowRank)]

    def tell(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        timesteps = args[1] if len(args) > 1 else kwargs["timestep"]
        if not isinstance(timesteps, Tensor):
            timesteps = torch.tensor(timesteps)
        numbers = timesteps.flatten().tolist()
        for schedule in {delta.schedule for delta in timed}:
            ranks = torch.tensor([schedule.rank(number) for number in numbers])
            active = (torch.arange(schedule.most) < ranks[:, None]).to(timed[0].down.device)
            for delta in timed:
                if delta.schedule == schedule:
                    delta.active = active

    # Not cleared after each call: with checkpointing the backward pass runs the layers again.
    handle = unet.register_forward_pre_hook(tell, with_kwargs=True) if timed else None
    try:
        yield
    finally:
        if handle:
            handle.remove()
        for delta in timed:
            delta.active = None
