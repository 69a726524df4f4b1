"""T-LoRA (Soboleva et al. 2025, arXiv 2507.05964): a LoRA whose rank falls as the noise grows.

r(t) = floor(((T - t) / T)^alpha (r_max - r_min)) + r_min: only the first r(t) ranks act at timestep
t, in training and in drawing (equation 4; studio/adapters/rank_schedule.py). With few pictures, a
LoRA overfits at the noisiest steps, where pose and background are decided. The authors train SDXL
on one picture for 800 steps at lr 1e-4: rank 64, at least 32, alpha 1.

Deviations: every row of a batch has its own rank (their code takes the first row's for all). The
factors start as in peft and are not orthogonal. The file is a plain LoRA, and its metadata hold the
schedule; programs that do not know it draw with all ranks always. In text encoders, which see no
timestep, all ranks act.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from studio.adapters.rank_schedule import RankSchedule
from studio.errors import BadInput
from studio.requests.recipe import AtLeastOne, Positive
from studio.requests.validation import option
from trainers.engine.kind import Kind
from trainers.lora import TARGETS_HELP, LoRA, Targets

if TYPE_CHECKING:
    import torch
    from torch import nn

    from studio.adapters.delta import LowRank
    from studio.bases.base import Base
    from studio.bases.info import BaseInfo


@dataclass(frozen=True)
class TLoRA(Kind):
    """Low-rank changes, of lower rank at more noise."""

    rank: AtLeastOne = option(64, "rank at the least noise: how much a change can hold")
    least_rank: AtLeastOne | None = option(None, "rank at the most noise; default: half of rank")
    power: Positive = option(
        1.0, "how the rank falls as noise grows: 1 evenly, above 1 sooner (the paper's alpha)"
    )
    alpha: Positive | None = option(None, "changes are scaled by alpha / rank; default: the rank")
    targets: Targets | None = option(None, TARGETS_HELP)

    def for_base(self, base: "Base") -> "TLoRA":
        """This kind with targets for this base. Raises BadInput for impossible ranks."""
        if (self.least_rank or 1) > self.rank:
            raise BadInput(
                f"least_rank is {self.least_rank}, above the rank {self.rank}: give less"
            )
        return replace(self, targets=self._lora().for_base(base).targets)

    def delta(
        self, name: str, layer: "nn.Module", *, generator: "torch.Generator"
    ) -> "LowRank | None":
        """A delta that starts at zero, for the layers that `targets` names."""
        from studio.adapters.delta.timed import TimedLowRank  # late: it imports torch

        change = self._lora().delta(name, layer, generator=generator)
        if change is None or not name.startswith("unet."):
            return change
        least = self.least_rank or max(1, self.rank // 2)
        return TimedLowRank.of(change, RankSchedule(least, self.rank, self.power))

    def _lora(self) -> LoRA:
        return LoRA(rank=self.rank, alpha=self.alpha, targets=self.targets)

    def published(self, base: "Base | BaseInfo") -> dict[str, object]:
        """The authors' settings, for one picture."""
        return {"steps": 800, "lr": 1e-4}
