"""The judge: a classifier that reads subject, colour, background, style and accessory of a picture.

It is trained on drawings alone, so it has never seen the faults of the generated pictures that it
measures. `accuracy` measures the judge itself, on drawings that it was not trained on.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from studio.adapters.tensor_file import write_tensors
from studio.assets import asset
from studio.errors import BadInput
from studio.sketch.corpus import Corpus
from studio.sketch.training import EMA, Checkpoints, Report, learning_rate, to_tensor
from studio.sketch.world import scenes as world

NOTHING = "nothing"
FACTORS: dict[str, tuple[str, ...]] = {
    "subject": world.SUBJECTS,
    "colour": world.COLOURS,
    "background": world.BACKGROUNDS,
    "style": world.STYLES,
    "accessory": (NOTHING, *world.ACCESSORIES),
}
WEIGHTS = asset("judge")


@dataclass(frozen=True)
class Reading:
    """The judge's answer to every factor of one picture, and the probability it gives to each."""

    answers: dict[str, str]
    certainty: dict[str, float]


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.inner(x))


def _down(narrow: int, wide: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()
    )


class Judge(nn.Module):
    """From pictures [B, 3, 64, 64] in [-1, 1] to logits by factor, {name: [B, answers]}."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _down(3, 32),
            _Residual(32),
            _down(32, 64),
            _Residual(64),
            _Residual(64),
            _down(64, 128),
            _Residual(128),
            _Residual(128),
        )
        # Each factor has an attention map of its own, beside the plain mean and maximum.
        self.gaze = nn.Conv2d(128, len(FACTORS), 1)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(3 * 128, len(answers)) for name, answers in FACTORS.items()}
        )

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.body(pictures).flatten(2)  # -> [B, 128, 64]
        gaze = self.gaze(features.unflatten(2, (8, 8))).flatten(2).float().softmax(-1)
        attended = torch.einsum("bcp,bfp->bfc", features.float(), gaze)
        common = torch.cat([features.mean(-1), features.amax(-1)], dim=1).float()
        return {
            name: head(torch.cat([attended[:, i], common], dim=1))
            for i, (name, head) in enumerate(self.heads.items())
        }


def load_judge() -> Judge:
    """The trained judge of assets/judge.

    Raises:
        BadInput: if its weights are missing.
    """
    path = WEIGHTS / "judge.safetensors"
    if not path.exists():
        raise BadInput(f"{path} is missing; build it with: python -m studio.sketch.build judge")
    judge = Judge()
    judge.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return judge.eval()


@functools.cache
def _cached_judge() -> Judge:
    return load_judge()


@torch.no_grad()
def read(pictures: Sequence[Image.Image]) -> list[Reading]:
    """Read pictures of any size with the trained judge; they are resized to 64 x 64."""
    small = [
        np.asarray(one.convert("RGB").resize((64, 64), Image.Resampling.BOX)) for one in pictures
    ]
    readings = []
    for start in range(0, len(small), 64):
        logits = _cached_judge()(to_tensor(np.stack(small[start : start + 64])))
        certainty = {name: one.softmax(-1).max(-1) for name, one in logits.items()}
        for i in range(len(small[start : start + 64])):
            readings.append(
                Reading(
                    {name: FACTORS[name][int(best.indices[i])] for name, best in certainty.items()},
                    {name: float(best.values[i]) for name, best in certainty.items()},
                )
            )
    return readings


def answers_of(scene: world.Scene) -> dict[str, str]:
    """The right answers for a scene, by factor."""
    return {
        "subject": scene.subject,
        "colour": scene.colour,
        "background": scene.background,
        "style": scene.style,
        "accessory": scene.accessory or NOTHING,
    }


def train(corpus: Corpus, checkpoints: Checkpoints, *, steps: int, rate: float = 2e-3):
    """Train up to `steps` on the scenes of `corpus`, from the checkpoint if there is one."""
    torch.manual_seed(0)
    judge = Judge()
    with_scene = np.array([i for i, scene in enumerate(corpus.scenes) if scene is not None])
    truth = {
        name: torch.tensor([answers.index(answers_of(corpus.scenes[i])[name]) for i in with_scene])
        for name, answers in FACTORS.items()
    }
    optimiser = torch.optim.AdamW(judge.parameters(), lr=rate, weight_decay=0.02)
    ema = EMA(judge, horizon=300)
    for step in range(checkpoints.load(judge, optimiser, ema), steps):
        rng = np.random.default_rng([6, step])
        chosen = np.sort(rng.integers(len(with_scene), size=96))
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, peak=rate, warmup=200)
        pictures = _degrade(to_tensor(corpus.pictures[with_scene[chosen]]), rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits = judge(pictures)
        loss = torch.stack(
            [F.cross_entropy(logits[name], truth[name][chosen]) for name in FACTORS]
        ).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        ema.update(step)
        yield Report(step + 1, steps, loss.item())
        checkpoints.save(step + 1, steps, judge, optimiser, ema)


def _degrade(pictures: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Blur, add noise and shift by a few pixels: generated pictures are never quite sharp."""
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
    soft = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mix = torch.rand(len(pictures), 1, 1, 1, generator=generator) * 0.8
    noise = torch.randn(pictures.shape, generator=generator)
    level = torch.rand(len(pictures), 1, 1, 1, generator=generator) * 0.08
    degraded = pictures + mix * (soft - pictures) + level * noise
    down, right = (int(n) for n in rng.integers(-3, 4, size=2))
    return F.pad(degraded, (3, 3, 3, 3), mode="replicate")[
        :, :, 3 + down : 67 + down, 3 + right : 67 + right
    ]


def save_judge(state: dict[str, torch.Tensor]) -> None:
    """Write trained weights to assets/judge in half precision."""
    halves = {name: tensor.half().contiguous() for name, tensor in state.items()}
    write_tensors(WEIGHTS / "judge.safetensors", halves, {})


def share_right(pictures: Sequence[Image.Image], scenes: Sequence[world.Scene]) -> dict[str, float]:
    """By factor, the share of pictures that the judge reads as their scene says."""
    readings = read(pictures)
    return {
        name: float(
            np.mean(
                [
                    reading.answers[name] == answers_of(scene)[name]
                    for reading, scene in zip(readings, scenes, strict=True)
                ]
            )
        )
        for name in FACTORS
    }


def accuracy(scenes: Sequence[world.Scene]) -> dict[str, float]:
    """By factor, the share of right answers on drawings of these scenes."""
    return share_right([world.draw(scene) for scene in scenes], scenes)
