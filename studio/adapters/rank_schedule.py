"""How many ranks of a change act at each timestep (T-LoRA, Soboleva et al. 2025, 2507.05964).

r(t) = floor(((T - t) / T)^alpha (most - least)) + least, of T timesteps: fewer ranks at more noise.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import floor
from typing import Self

TIMESTEPS = 1000  # as every Stable Diffusion has


@dataclass(frozen=True)
class RankSchedule:
    """least, most: ranks at the noisiest and at the cleanest timestep. power: the alpha above."""

    least: int
    most: int
    power: float = 1.0

    def rank(self, timestep: float) -> int:
        """How many ranks act at a timestep, from 0 to 1000; samplers also use fractions."""
        clean = min(max((TIMESTEPS - timestep) / TIMESTEPS, 0.0), 1.0)
        return floor(clean**self.power * (self.most - self.least)) + self.least

    def plain(self) -> dict[str, float]:
        """The fields as a JSON object."""
        return asdict(self)

    @classmethod
    def read(cls, stored: object) -> Self | None:
        """The inverse of `plain`; None for anything that is not a valid schedule."""
        names = [field.name for field in fields(cls)]
        if not isinstance(stored, Mapping) or sorted(stored) != sorted(names):
            return None
        numbers = [stored[name] for name in names]
        if not all(type(number) in (int, float) for number in numbers):
            return None
        least, most, power = numbers
        return cls(int(least), int(most), power) if 0 < least <= most and power > 0 else None
