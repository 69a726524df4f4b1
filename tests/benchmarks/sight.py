"""Reads what a sketch scene's subject wears and what it holds, both at once.

The judge of studio/sketch names one accessory; a mix may have two. Its features are kept as they
are, and for every accessory a place to look at and a yes or no are learned on drawings with two of
them, in a minute.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from studio.adapters.tensor_file import write_tensors
from studio.sketch import judge
from studio.sketch.training import to_tensor
from studio.sketch.world import scenes as world

__all__ = ["Sight", "kept_sight", "learned_sight", "scene_of_two"]

WORN = ("top hat", "glasses", "bow tie", "crown", "scarf")
HELD = ("flag", "umbrella", "balloon", "lantern")
DRAWN, STEPS, BATCH = 2500, 500, 250


class Sight(nn.Module):
    """Features of the judge [B, 128, 64] to logits of the world's accessories [B, 9]."""

    def __init__(self) -> None:
        super().__init__()
        count = len(world.ACCESSORIES)
        self.gaze = nn.Conv1d(128, count, 1)
        self.weight = nn.Parameter(torch.zeros(count, 3 * 128))
        self.bias = nn.Parameter(torch.zeros(count))

    def forward(self, seen: Tensor) -> Tensor:
        looked = torch.einsum("bap,bcp->bac", self.gaze(seen).softmax(-1), seen)  # -> [B, 9, 128]
        common = torch.cat([seen.mean(-1), seen.amax(-1)], dim=1)
        common = common[:, None].expand(-1, looked.shape[1], -1)
        return (torch.cat([looked, common], dim=-1) * self.weight).sum(-1) + self.bias

    @torch.no_grad()
    def read(self, pictures: Sequence[Image.Image]) -> list[set[str]]:
        """The accessories in each picture of 64 x 64."""
        found = self(features(pictures)) > 0
        return [
            {name for name, there in zip(world.ACCESSORIES, row, strict=True) if there}
            for row in found.tolist()
        ]


def scene_of_two(rng: np.random.Generator) -> world.Scene:
    """Of the whole world, now and then with something worn, and with something held."""
    scene = world.sample(
        rng,
        subjects=world.SUBJECTS,
        backgrounds=world.BACKGROUNDS,
        styles=world.STYLES,
        accessories=HELD,
        accessory_rate=0.6,
    )
    return replace(scene, also=str(rng.choice(WORN)) if rng.random() < 0.6 else None)


@torch.no_grad()
def features(pictures: Sequence[Image.Image], *, softened: bool = False) -> Tensor:
    """What the judge's last layer sees, [B, 128, 64]; softened: as in pictures that were made."""
    body = judge.load_judge().body
    found = []
    for start in range(0, len(pictures), 125):
        pixels = to_tensor(np.stack([np.asarray(one) for one in pictures[start : start + 125]]))
        if softened:
            pixels = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        found.append(body(pixels).flatten(2))
    return torch.cat(found)


def kept_sight(file: Path) -> tuple[Sight, float]:
    """`learned_sight`, from this file where it is there."""
    if not file.exists():
        sight, right = learned_sight()
        write_tensors(file, sight.state_dict() | {"right": torch.tensor(right)}, {})
    state = load_file(file)
    right = float(state.pop("right"))
    sight = Sight()
    sight.load_state_dict(state)
    return sight, right


def learned_sight() -> tuple[Sight, float]:
    """A trained one, and how often both answers are right on drawings that it has not seen."""
    rng = np.random.default_rng(31)
    scenes = [scene_of_two(rng) for _ in range(DRAWN)]
    drawn = [world.draw(scene) for scene in scenes]
    seen = torch.cat([features(drawn), features(drawn, softened=True)])
    truth = torch.tensor(
        [[name in (one.accessory, one.also) for name in world.ACCESSORIES] for one in scenes]
    )
    truth = truth.float().repeat(2, 1)
    torch.manual_seed(0)
    sight = Sight()
    optimiser = torch.optim.AdamW(sight.parameters(), lr=5e-3, weight_decay=0.01)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 5e-3 * (1 - step / STEPS)
        chosen = torch.from_numpy(rng.integers(len(seen), size=BATCH))
        loss = F.binary_cross_entropy_with_logits(sight(seen[chosen]), truth[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    unseen = [scene_of_two(rng) for _ in range(500)]
    readings = sight.read([world.draw(scene) for scene in unseen])
    right = [
        reading == {name for name in (scene.accessory, scene.also) if name}
        for reading, scene in zip(readings, unseen, strict=True)
    ]
    return sight, float(np.mean(right))
