"""AlignProp (Prabhudesai et al. 2023, arXiv 2310.03739): a reward's gradient through the sampler.

L = -R(picture of z_0) back through the decoder and the last steps of DDIM into a LoRA; earlier
steps are drawn without gradients, so that memory does not grow with their number. Rewards are
easily overdone, and the authors stop by eye: here each picture may differ from what the base draws
from the same noise by `limit` at most, and what is beyond costs ten times as much.

    L = -mean R + 10 mean max(0, d - limit),  d = |z_0 - z_0'| / |z_0'|, z_0' the base's own

Deviations: DDIM without added noise, the same number of steps with gradients each time, and a set
of prompts and seeds that come again, for which the base draws once.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor

from studio.adapters.adapter import Adapter
from studio.adapters.delta import Delta, attach
from studio.bases.base import Base
from studio.bases.prompts import PLAIN
from studio.errors import BadInput
from studio.files import check_new_adapter
from studio.json_value import JSON
from trainers.align.options import Alignment
from trainers.align.rewards import REWARDS, Reward
from trainers.engine.data.randomness import generator_for
from trainers.engine.distill.mixed import Mixed
from trainers.engine.kind import is_sketch, new_deltas
from trainers.engine.loop import frozen_base
from trainers.engine.text_encoders import encode_captions
from trainers.lora import LoRA

BEYOND = 10.0  # what a distance beyond the limit costs


@dataclass(frozen=True)
class Aligning:
    """A step was taken. reward, distance: the mean of its pictures, before the step."""

    step: int
    steps: int
    reward: float
    distance: float
    seconds: float


@dataclass(frozen=True)
class Aligned:
    """The adapter is written."""

    path: Path
    adapter: Adapter


def align(
    reward: Reward,
    base: Base,
    prompts: Sequence[str],
    *,
    out: str | Path,
    adapters: Sequence[tuple[Adapter, float]] = (),
    options: Alignment | None = None,
) -> Generator[Aligning | Aligned, None, None]:
    """Train a plain LoRA that moves the base's pictures of these prompts to a reward.

    adapters: with their strengths, worn by the base meanwhile; the new one goes beside them.
    Raises BadInput at once for a reward, a file or prompts that cannot be. To stop, close the
    generator; nothing is written then.
    """
    options, out = options or Alignment(), Path(out)
    reward.check()
    check_new_adapter(out)
    if not prompts:
        raise BadInput("there are no prompts: give some of the kind that will be drawn")
    kind = LoRA(rank=options.rank).for_base(base)
    base.fingerprint()  # while its weights are its own
    deltas = new_deltas(kind, base, generator=generator_for(options.seed, "start"))
    return _aligned(reward, base, prompts, out, adapters, options, deltas)


def _aligned(
    reward: Reward,
    base: Base,
    prompts: Sequence[str],
    out: Path,
    adapters: Sequence[tuple[Adapter, float]],
    options: Alignment,
    deltas: Mapping[str, Delta],
) -> Generator[Aligning | Aligned, None, None]:
    parameters = [p for delta in deltas.values() for p in delta.to(base.device).parameters()]
    on_device = tuple((adapter.to(base.device), strength) for adapter, strength in adapters)
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, weight_decay=0.01)
    with ExitStack() as worn:
        worn.enter_context(frozen_base(base, checkpointing=not is_sketch(base)))
        worn.enter_context(Mixed(on_device).merged(base))
        pictures = _Pictures(base, prompts, options)
        for step in range(options.steps):
            started = perf_counter()
            numbers = pictures.numbers(step)
            targets = pictures.of_base(numbers)
            with attach(base.layers(), deltas):
                drawn = pictures.draw(numbers, learning=options.last)
                scores = reward.score(decode(base, drawn), pictures.prompts_of(numbers))
                distances = _distances(drawn, targets)
                beyond = (distances - options.limit).clamp(min=0)
                loss = BEYOND * beyond.mean() - scores.mean()
                loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            if not isfinite(loss.item()):
                raise BadInput(f"the reward is NaN or Inf at step {step + 1}: lower lr")
            optimizer.step()
            optimizer.zero_grad()
            means = scores.mean().item(), distances.mean().item()
            yield Aligning(step + 1, options.steps, *means, perf_counter() - started)
    adapter = _adapter(reward, base, options, deltas)
    yield Aligned(adapter.save(out), adapter)


def decode(base: Base, latents: Tensor) -> Tensor:
    """Pictures of latents with gradients: [B, 3, H, W], float32 in 0 .. 1."""
    base.move_to_device(base.vae)
    scaled = latents / base.vae.config["scaling_factor"]
    decoded = base.vae.decode(scaled.to(base.vae.dtype), return_dict=False)[0]
    return (decoded.float() / 2 + 0.5).clamp(0, 1)


class _Pictures:
    """The prompts and seeds that come again and again, and what the base draws of them."""

    def __init__(self, base: Base, prompts: Sequence[str], options: Alignment) -> None:
        self.base, self.prompts, self.options = base, prompts, options
        self.pieces = base.count_pieces(list(prompts), "plain")
        self._of_base: dict[int, Tensor] = {}

    def numbers(self, step: int) -> list[int]:
        """Which of the pictures a step draws."""
        draw = generator_for(self.options.seed, "align", step)
        count = min(self.options.batch, self.options.pictures)
        return torch.randperm(self.options.pictures, generator=draw)[:count].tolist()

    def prompts_of(self, numbers: Sequence[int]) -> list[str]:
        return [self.prompts[number % len(self.prompts)] for number in numbers]

    def of_base(self, numbers: Sequence[int]) -> Tensor:
        """The base's own latents, [B, 4, h, w]."""
        missing = [number for number in numbers if number not in self._of_base]
        if missing:
            found = self.draw(missing, learning=0).cpu()
            self._of_base |= dict(zip(missing, found, strict=True))
        return torch.stack([self._of_base[number] for number in numbers]).to(self.base.device)

    def draw(self, numbers: Sequence[int], *, learning: int) -> Tensor:
        """Latents [B, 4, h, w] by DDIM, the last steps with gradients."""
        base, options = self.base, self.options
        scheduler: Any = base.scheduler("ddim")  # diffusers' types say less than it takes
        scheduler.set_timesteps(options.sampling_steps, device=torch.device("cpu"))
        side = base.size // base.latent_factor
        noises = [
            torch.randn(4, side, side, generator=generator_for(options.seed, "noise", number))
            for number in numbers
        ]
        latents = torch.stack(noises).to(base.device)
        captions = [""] * len(numbers) + self.prompts_of(numbers)
        with torch.no_grad():
            text = encode_captions(base, captions, reading=PLAIN, pieces=self.pieces)
        for left, timestep in enumerate(scheduler.timesteps):
            with torch.set_grad_enabled(left >= options.sampling_steps - learning):
                both = torch.cat([latents, latents])
                without, prompted = base.predict(both, timestep, text).chunk(2)
                guided = without + options.guidance * (prompted - without)
                latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        return latents


def _distances(latents: Tensor, own: Tensor) -> Tensor:
    """How far latents are from others, as a share of these: [B]."""
    return (latents - own).flatten(1).norm(dim=1) / own.flatten(1).norm(dim=1)


def _adapter(
    reward: Reward, base: Base, options: Alignment, deltas: Mapping[str, Delta]
) -> Adapter:
    name = next(name for name, kind in REWARDS.items() if kind is type(reward))
    given = {key: _plain(value) for key, value in asdict(reward).items()}
    return Adapter(
        deltas=dict(deltas),
        kind="lora",
        family=base.family,
        base=base.name,
        fingerprint=base.fingerprint(),
        recipe={"kind": "lora", "reward": name, "reward_options": given, **asdict(options)},
    )


def _plain(value: object) -> JSON:
    if isinstance(value, tuple):
        return [str(one) for one in value]
    return str(value) if isinstance(value, Path) else cast(JSON, value)
