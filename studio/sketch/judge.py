"""The judge: a classifier that reads every factor of a scene off a picture of it.

It is trained on drawings, and on drawings that went through the VAE. It never sees a generated
picture before it measures one. `accuracy` measures the judge itself, on drawings new to it.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from studio.adapters.tensor_file import write_tensors
from studio.assets import asset
from studio.errors import BadInput
from studio.sketch import autoencoder
from studio.sketch import scenes as world
from studio.sketch.corpus import draw_part, pictures, scenes_of_part
from studio.sketch.draw import draw
from studio.sketch.scenes import FACTORS, NOTHING, OWN
from studio.sketch.training import (
    EMA,
    Checkpoints,
    Optimizers,
    Report,
    fast_autocast,
    learning_rate,
    to_tensor,
)

SIDE = 128  # of the pictures that the judge reads, in pixels
WEIGHTS = asset("judge") / "judge.safetensors"
DECODED = 10  # every tenth part of the corpus goes through the VAE, which is slow


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
    """From pictures [B, 3, 128, 128] in [-1, 1] to logits by factor, {name: [B, answers]}."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            # Four pixels become the channels of one: detail at the price of 64 x 64.
            nn.Sequential(nn.PixelUnshuffle(2), _down(3 * 4, 32)),
            _Residual(32),
            _down(32, 64),
            _Residual(64),
            _Residual(64),
            _down(64, 160),
            _Residual(160),
            _Residual(160),
        )
        # Each factor has an attention map of its own, beside the plain mean and maximum.
        self.gaze = nn.Conv2d(160, len(FACTORS), 1)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(3 * 160, len(answers)) for name, answers in FACTORS.items()}
        )

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.body(pictures).flatten(2)  # -> [B, 160, 64]
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
    if not WEIGHTS.exists():
        raise BadInput(f"{WEIGHTS} is missing; build it with: python -m studio.sketch.build judge")
    judge = Judge()
    judge.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
    return judge.eval()


@functools.cache
def _cached_judge() -> Judge:
    return load_judge()


@torch.no_grad()
def read(pictures: Sequence[Image.Image]) -> list[dict[str, str]]:
    """The trained judge's answer to every factor of each picture, which may be of any size."""
    resized = [np.asarray(_resized(one)) for one in pictures]
    answers = []
    for start in range(0, len(resized), 64):
        batch = to_tensor(np.stack(resized[start : start + 64]))
        likeliest = {name: one.argmax(-1).tolist() for name, one in _cached_judge()(batch).items()}
        answers += [
            {name: FACTORS[name][at[i]] for name, at in likeliest.items()}
            for i in range(len(batch))
        ]
    return answers


def _resized(picture: Image.Image) -> Image.Image:
    """The picture as the judge sees it, RGB [128, 128]."""
    return picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)


def answers_of(scene: world.Scene) -> dict[str, str]:
    """The right answers for a scene, by factor."""
    paint = scene.paint
    return {
        "subject": scene.subject.name,
        "colour": paint.colour or OWN,
        "pattern": paint.pattern,
        "pattern colour": paint.pattern_colour if paint.pattern != "plain" else NOTHING,
        "place": scene.place or f"{scene.wall} wall",
        "style": scene.style,
        "worn": scene.worn.name if scene.worn else NOTHING,
        "held": scene.held.name if scene.held else NOTHING,
    }


def _draw_or_decode_part(part: int) -> np.ndarray:
    """One part of the corpus as the judge sees it, uint8 [500, 128, 128, 3]."""
    drawn = draw_part(part)
    if part % DECODED == 0:
        drawn = autoencoder.reproduce(autoencoder.load(asset("sketch")), drawn)
    return drawn


@dataclass(frozen=True)
class TrainingData:
    """Pictures, uint8 [N, 128, 128, 3], and the right answers of each by factor, [N]."""

    pictures: np.ndarray
    answers: dict[str, torch.Tensor]


def training_data(folder: Path, parts: int) -> TrainingData:
    """Drawings of the whole world and their answers; the drawings are cached in `folder`."""
    answers = [answers_of(scene) for part in range(parts) for scene in scenes_of_part(part)]
    return TrainingData(
        pictures(folder, parts, _draw_or_decode_part),
        {
            name: torch.tensor([choices.index(one[name]) for one in answers])
            for name, choices in FACTORS.items()
        },
    )


def train(
    data: TrainingData, checkpoints: Checkpoints, *, rate: float = 3e-3, batch: int = 96
) -> Iterator[Report]:
    """Train the judge; yields a Report for each step.

    It goes on from the checkpoint if there is one, else from the weights that assets/ has.
    """
    torch.manual_seed(0)
    judge = load_judge().train() if WEIGHTS.exists() else Judge()
    judge.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizers = Optimizers(judge, plain=("gaze", "heads", "body.0"))
    ema = EMA(judge, horizon=300)
    step = checkpoints.load(judge, optimizers, ema)
    while (share := checkpoints.share(step)) < 1:
        rng = np.random.default_rng([6, step])
        chosen = np.sort(rng.integers(len(data.pictures), size=batch))
        optimizers.set_rate(learning_rate(share, peak=rate))
        shown = _degrade(to_tensor(data.pictures[chosen]), rng)
        with fast_autocast("cpu"):
            logits = judge(shown)
        losses = [F.cross_entropy(logits[name], data.answers[name][chosen]) for name in FACTORS]
        loss = torch.stack(losses).sum()
        loss.backward()
        optimizers.step()
        ema.update(step)
        step += 1
        yield Report(step, checkpoints.share(step), loss.item())
        checkpoints.save(step, judge, optimizers, ema)


def _degrade(pictures: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Blur, add noise, mirror, scale and shift: generated pictures are never quite sharp."""
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(len(pictures), 1, 1, 1, generator=generator)

    soft = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    noise = torch.randn(pictures.shape, generator=generator)
    degraded = pictures + uniform(0, 0.8) * (soft - pictures) + uniform(0, 0.08) * noise
    # Rows of the affine maps from a picture to where its pixels come from.
    scale, turned = uniform(0.9, 1.1), torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    zero, right, down = torch.zeros_like(scale), uniform(-0.1, 0.1), uniform(-0.1, 0.1)
    across = torch.cat([scale * turned, zero, right], -1)
    affine = torch.cat([across, torch.cat([zero, scale, down], -1)], 2).squeeze(1)
    grid = F.affine_grid(affine, list(pictures.shape), align_corners=False)
    return F.grid_sample(degraded, grid, padding_mode="border", align_corners=False)


def save_judge(state: dict[str, torch.Tensor]) -> None:
    """Write trained weights to assets/judge in half precision."""
    halves = {name: tensor.half().contiguous() for name, tensor in state.items()}
    write_tensors(WEIGHTS, halves, {})


def is_instance(answers: Mapping[str, str], truth: Mapping[str, str]) -> bool:
    """Whether a subject is the one that is meant: itself, in its colour or its pattern.

    Of a pattern's two colours the judge has to see one. Which of them lies on top can't be told of
    stripes.
    """
    if any(answers[name] != truth[name] for name in ("subject", "pattern")):
        return False
    if truth["pattern"] == "plain":
        return answers["colour"] == truth["colour"]
    return answers["pattern colour"] in (truth["colour"], truth["pattern colour"])


def share_right(pictures: Sequence[Image.Image], scenes: Sequence[world.Scene]) -> dict[str, float]:
    """By factor, the share of pictures that the judge reads as their scene says.

    "instance" is the share that shows the very subject, see `is_instance`.
    """
    pairs = [(one, answers_of(scene)) for one, scene in zip(read(pictures), scenes, strict=True)]
    right = {
        name: float(np.mean([answers[name] == truth[name] for answers, truth in pairs]))
        for name in FACTORS
    }
    return right | {"instance": float(np.mean([is_instance(*pair) for pair in pairs]))}


def accuracy(scenes: Sequence[world.Scene]) -> dict[str, float]:
    """By factor, the share of right answers on drawings of these scenes."""
    return share_right([draw(scene) for scene in scenes], scenes)
