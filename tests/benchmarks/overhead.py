"""The engine's own time: denoising steps of a UNet that does nothing.

    python -m tests.benchmarks.overhead

The UNet has SDXL's 560 adaptable layers of attention and returns its input, so that what is left of
a step is Python: what the method asks for, the weights that are swapped, and the scheduler. The
adapters are LoRAs that change every layer. The best of five pictures with other seeds, in processor
time of one core. "step" is the mean of the steps after the first. "scheduler" is diffusers' part of
it, measured alone. "before" is all that comes before the second step, once the mix is ready.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from compose import CMLoRA, Composite, KLoRA, Merge, Step, Switch, denoise
from compose.engine.sampler import timesteps_of
from studio.adapters.adapter import Adapter
from studio.adapters.delta import LowRank
from studio.bases.base import Base
from studio.bases.prompts import TextEmbedding
from studio.requests.shot import Shot

LAYERS, WIDTH, SIDE, PICTURES = 560, 8, 4, 5
METHODS = {
    "no adapter": (None, 0),
    "merge": (Merge(), 2),
    "switch": (Switch(), 2),
    "klora": (KLoRA(), 2),
    "composite": (Composite(), 2),
    "cmlora": (CMLoRA(), 3),
}


class IdleBlock(nn.Module):
    """A block of layers that are there to be changed, and never run."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(layers))
        self.resnets, self.downsamplers = nn.ModuleList(), None

    def forward(self, hidden_states: Tensor) -> Tensor:
        """What was given."""
        return hidden_states


class IdleUNet(nn.Module):
    """Predicts its own input."""

    config: Mapping[str, object] = {"sample_size": SIDE, "block_out_channels": (WIDTH, WIDTH)}

    def __init__(self) -> None:
        super().__init__()
        self.down_blocks = nn.ModuleList(IdleBlock(LAYERS // 4) for _ in range(2))
        self.mid_block = IdleBlock(0)
        self.up_blocks = nn.ModuleList(IdleBlock(LAYERS // 4) for _ in range(2))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: Mapping[str, Tensor],
    ) -> SimpleNamespace:
        """sample: [B, 4, h, w]."""
        return SimpleNamespace(sample=self.up_blocks[-1](hidden_states=sample))


class IdleBase(Base):
    """A base without text encoders: every prompt means the same."""

    def encode_text(self, texts: Sequence[str], **named: object) -> TextEmbedding:
        """hidden [B, 77, 8] and pooled [B, 8]."""
        return TextEmbedding(torch.zeros(len(texts), 77, WIDTH), torch.zeros(len(texts), WIDTH))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.overhead", description=__doc__
    )
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--scheduler", default="euler")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    base = idle_base()
    shot = Shot("a robot", steps=asked.steps, scheduler=asked.scheduler)
    print(
        "| | adapters | step, ms | of that the scheduler, ms | picture, ms |\n|---|---|---|---|---|"
    )
    scheduler = 1000 * time_scheduler(base, shot)
    for name, (method, count) in METHODS.items():
        pairs = tuple((adapter(base, seed), 0.8) for seed in range(count))
        step, before = best_of_pictures(base, replace(shot, adapters=pairs, method=method))
        times = f"{1000 * step:.2f} ms | {scheduler:.2f} ms | {1000 * before:.0f} ms"
        print(f"| `{name}` | {count} | {times} |")


def idle_base() -> IdleBase:
    """A base of SDXL's family around the idle UNet."""
    return IdleBase(
        source="idle",
        name="idle",
        family="sdxl",
        unet=IdleUNet(),  # pyright: ignore[reportArgumentType]
        vae=SimpleNamespace(config={"block_out_channels": (1,) * 4}),  # pyright: ignore[reportArgumentType]
        tokenizers=(),
        text_encoders=(),
        scheduler_config={"_class_name": "EulerDiscreteScheduler"},
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def adapter(base: Base, seed: int) -> Adapter:
    """A random LoRA of all layers."""
    draw = torch.Generator().manual_seed(seed)
    factors = {
        name: LowRank(
            torch.randn(2, WIDTH, generator=draw), torch.randn(WIDTH, 2, generator=draw), alpha=2
        )
        for name in base.layers()
    }
    return Adapter(deltas=dict(factors), kind="lora", family="sdxl", name=str(seed))


def best_of_pictures(base: Base, shot: Shot) -> tuple[float, float]:
    """Seconds of a step and of what is before the second step, once the mix is ready."""
    for _ in denoise(base, shot):
        pass
    found = [time_picture(base, replace(shot, seed=seed)) for seed in range(1, PICTURES + 1)]
    return min(step for step, _ in found), min(before for _, before in found)


def time_picture(base: Base, shot: Shot) -> tuple[float, float]:
    """Seconds of a step, and of what is before the second step."""
    begun = time.process_time()
    ends = [time.process_time() for event in denoise(base, shot) if isinstance(event, Step)]
    return (ends[-1] - ends[0]) / (len(ends) - 1), ends[0] - begun


def time_scheduler(base: Base, shot: Shot) -> float:
    """Seconds that the scheduler alone takes for a step."""
    scheduler, timesteps = timesteps_of(base, shot)
    latents = torch.zeros(1, 4, SIDE, SIDE)
    begun = time.process_time()
    for timestep in timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(scaled, timestep, latents, return_dict=False)[0]
    return (time.process_time() - begun) / len(timesteps)


if __name__ == "__main__":
    main()
