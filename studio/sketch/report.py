"""How good the sketch models are, measured: ``python -m studio.sketch.build --report``.

Everything is measured on scenes that no training saw, against the truth they were drawn from.
The figures are printed and kept beside the weights, with a sheet of pictures to look at.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (diffusers and transformers annotate what they take and give too narrowly)

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from studio.assets import asset
from studio.files import write_file
from studio.sketch import autoencoder, judge
from studio.sketch.corpus import everything
from studio.sketch.world import captions
from studio.sketch.world import scenes as world

ASSETS = asset("")
GOALS = {"background": 0.90, "style": 0.90, "subject": 0.85, "colour": 0.80}
STEPS, GUIDANCE = 25, 5.0


@dataclass(frozen=True)
class Measured:
    """One figure, and what it ought to be at least (None: for information)."""

    what: str
    value: float
    goal: float | None = None

    def row(self) -> tuple[str, str, str]:
        return self.what, _shown(self.value), "" if self.goal is None else _shown(self.goal)


def _shown(value: float) -> str:
    """Shares as per cent, all else as it is."""
    return f"{value:.1f}" if value > 1 else f"{value:.1%}"


def main(*, pictures: int = 300) -> None:
    """Measure the VAE, the judge and both bases; print a table and keep it with the weights."""
    torch.manual_seed(0)
    measured = [*_judge_figures(), *_autoencoder_figures(ASSETS / "sketch")]
    for name in ("sketch", "sketch-sd1"):
        if (ASSETS / name / "model_index.json").exists():
            measured += measure_base(ASSETS / name, pictures=pictures)
    table = Table("measured on unseen scenes", "value", "goal")
    for one in measured:
        table.add_row(*one.row())
    Console().print(table)
    figures = {one.what: round(one.value, 4) for one in measured}
    write_file(ASSETS / "sketch" / "report.json", (json.dumps(figures, indent=1) + "\n").encode())


def _unseen(count: int, seed: int, *, known: bool) -> list[world.Scene]:
    rng = np.random.default_rng([7, seed])
    return [world.sample(rng) if known else everything(rng) for _ in range(count)]


def _judge_figures() -> list[Measured]:
    scenes = _unseen(2000, 0, known=False)
    pictures = [world.draw(scene) for scene in scenes]
    figures = [
        Measured(f"judge, {factor}", value, 0.97)
        for factor, value in judge.right(pictures, scenes).items()
    ]
    for factor, names in (
        ("subject", world.HELD_OUT_SUBJECTS),
        ("style", world.HELD_OUT_STYLES),
    ):
        pairs = zip(pictures, scenes, strict=True)
        held_out = [pair for pair in pairs if judge.answers_of(pair[1])[factor] in names]
        share = judge.right(*zip(*held_out, strict=True))[factor]
        figures.append(Measured(f"judge, held-out {factor}s", share, 0.97))
    return figures


def _autoencoder_figures(folder: Path) -> list[Measured]:
    pipeline = DiffusionPipeline.from_pretrained(folder)
    scenes = _unseen(500, 1, known=False)
    pictures = np.stack([np.asarray(world.draw(scene)) for scene in scenes])
    figures = autoencoder.measure(pipeline.vae, pictures)
    return [
        Measured("VAE, PSNR in dB", figures["psnr"], 28),
        Measured("VAE, PSNR of the worst tenth", figures["psnr_worst_tenth"]),
        Measured("VAE, mean hue error in degrees", _hue_error(pipeline.vae, pictures)),
    ]


@torch.no_grad()
def _hue_error(vae, pictures: np.ndarray) -> float:
    """Mean hue difference, in degrees, of the pixels that have a hue (chroma over 0.2)."""
    errors = []
    for start in range(0, len(pictures), 50):
        batch = autoencoder.to_tensor(pictures[start : start + 50])
        drawn = vae.decode(vae.encode(batch).latent_dist.mean).sample.clamp(-1, 1)
        before, after = (_hue(one / 2 + 0.5) for one in (batch, drawn))
        chroma = (batch.amax(1) - batch.amin(1)) / 2
        turn = (before - after).abs()
        errors.append(torch.minimum(turn, 1 - turn)[chroma > 0.2] * 360)
    return float(torch.cat(errors).mean())


def _hue(pictures: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] in [0, 1] to hue [B, H, W] in [0, 1)."""
    red, green, blue = pictures.unbind(1)
    alpha = red - 0.5 * (green + blue)
    beta = (3**0.5 / 2) * (green - blue)
    return (torch.atan2(beta, alpha) / (2 * np.pi)) % 1


def generate(
    pipeline: DiffusionPipeline, prompts: Sequence[str], *, seed: int = 0
) -> list[Image.Image]:
    """One 64 x 64 picture a prompt, each from its own seed."""
    made: list[Image.Image] = []
    for start in range(0, len(prompts), 20):
        part = list(prompts[start : start + 20])
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        made += pipeline(
            part,
            negative_prompt=[""] * len(part),
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=generators,
            height=64,
            width=64,
        ).images
    return made


def measure_base(folder: Path, *, pictures: int) -> list[Measured]:
    """Judge pictures generated from captions of unseen scenes; keep a sheet of them."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    scenes = _unseen(pictures, 2, known=True)
    prompts = [captions.plain(scene) for scene in scenes]
    made = generate(pipeline, prompts)
    _sheet(folder / "report.png", made[:40], prompts[:40])
    return [
        Measured(f"{folder.name}, {factor}", value, GOALS.get(factor))
        for factor, value in judge.right(made, scenes).items()
    ]


def _sheet(path: Path, pictures: Sequence[Image.Image], labels: Sequence[str]) -> None:
    """A sheet of pictures at twice their size with their prompts below."""
    columns, side, line = 8, 128, 40
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (side + 8), rows * (side + line)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        x, y = i % columns * (side + 8), i // columns * (side + line)
        sheet.paste(picture.resize((side, side), Image.Resampling.BICUBIC), (x, y))
        for k in range(3):
            pen.text((x, y + side + 2 + 12 * k), label[22 * k : 22 * k + 22], "black")
    sheet.save(path)
