"""Measure the quality of the sketch models: ``python -m studio.sketch.build --report``.

The scenes are new to every model, and the judge's answers are compared with the truth about them.
The figures are printed and written beside the weights, with a sheet of generated pictures.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (the annotations of diffusers and transformers are too narrow)

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
from studio.sketch import autoencoder, captions, judge
from studio.sketch import scenes as world
from studio.sketch.draw import draw

ASSETS = asset("")
GOALS = {"place": 0.90, "style": 0.90, "subject": 0.85, "colour": 0.80}
STEPS, GUIDANCE = 20, 5.0


@dataclass(frozen=True)
class Measured:
    """One figure. goal: the least that it should be; None where there is no goal."""

    what: str
    value: float
    goal: float | None = None

    def row(self) -> tuple[str, str, str]:
        return self.what, _format(self.value), "" if self.goal is None else _format(self.goal)


def _format(value: float) -> str:
    """Values up to 1 as per cent, larger ones as numbers."""
    return f"{value:.1f}" if value > 1 else f"{value:.1%}"


def main(*, pictures: int = 300) -> None:
    """Measure the VAE, the judge and the base; print a table and write it beside the weights."""
    torch.manual_seed(0)
    measured = [*_judge_figures(), *_autoencoder_figures(ASSETS / "sketch")]
    measured += measure_base(ASSETS / "sketch", pictures=pictures)
    table = Table("measured on unseen scenes", "value", "goal")
    for figure in measured:
        table.add_row(*figure.row())
    Console().print(table)
    figures = {figure.what: round(figure.value, 4) for figure in measured}
    write_file(ASSETS / "sketch" / "report.json", (json.dumps(figures, indent=1) + "\n").encode())


def _new_scenes(count: int, seed: int, *, known: bool) -> list[world.Scene]:
    rng = np.random.default_rng([7, seed])
    return [world.sample(rng) if known else world.sample_any(rng) for _ in range(count)]


def _judge_figures() -> list[Measured]:
    scenes = _new_scenes(2000, 0, known=False)
    pictures = [draw(scene) for scene in scenes]
    figures = [
        Measured(f"judge, {factor}", value, 0.90 if factor == "subject" else 0.95)
        for factor, value in judge.share_right(pictures, scenes).items()
    ]
    for factor, names in (("subject", world.HELD_OUT_SUBJECTS), ("style", world.HELD_OUT_STYLES)):
        pairs = zip(pictures, scenes, strict=True)
        held_out = [pair for pair in pairs if judge.answers_of(pair[1])[factor] in names]
        share = judge.share_right(*zip(*held_out, strict=True))[factor]
        figures.append(Measured(f"judge, held-out {factor}s", share, 0.90))
    return figures


def _autoencoder_figures(folder: Path) -> list[Measured]:
    pipeline = DiffusionPipeline.from_pretrained(folder)
    scenes = _new_scenes(500, 1, known=False)
    pictures = np.stack([np.asarray(draw(scene)) for scene in scenes])
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
        decoded = vae.decode(vae.encode(batch).latent_dist.mean).sample.clamp(-1, 1)
        before, after = (_hue(pixels / 2 + 0.5) for pixels in (batch, decoded))
        chroma = (batch.amax(1) - batch.amin(1)) / 2
        difference = (before - after).abs()
        errors.append(torch.minimum(difference, 1 - difference)[chroma > 0.2] * 360)
    return float(torch.cat(errors).mean())


def _hue(pictures: torch.Tensor) -> torch.Tensor:
    """Hue [B, H, W] in [0, 1) of pictures [B, 3, H, W] in [0, 1]."""
    red, green, blue = pictures.unbind(1)
    alpha = red - 0.5 * (green + blue)
    beta = (3**0.5 / 2) * (green - blue)
    return (torch.atan2(beta, alpha) / (2 * np.pi)) % 1


def generate(
    pipeline: DiffusionPipeline, prompts: Sequence[str], *, seed: int = 0
) -> list[Image.Image]:
    """A picture for each prompt, each with a seed of its own."""
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), 20):
        part = list(prompts[start : start + 20])
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        pictures += pipeline(
            part,
            negative_prompt=[""] * len(part),
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=generators,
        ).images
    return pictures


def measure_base(folder: Path, *, pictures: int) -> list[Measured]:
    """Generate pictures from captions of new scenes, judge them, and write a sheet of them."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    scenes = _new_scenes(pictures, 2, known=True)
    prompts = [captions.plain(scene) for scene in scenes]
    generated = generate(pipeline, prompts)
    _write_sheet(folder / "report.webp", generated[:96], prompts[:96])
    return [
        Measured(f"{folder.name}, {factor}", value, GOALS.get(factor))
        for factor, value in judge.share_right(generated, scenes).items()
    ]


def _write_sheet(path: Path, pictures: Sequence[Image.Image], labels: Sequence[str]) -> None:
    """Write a sheet of the pictures with their prompts below."""
    columns, side, line = 12, 128, 40
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (side + 8), rows * (side + line)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        x, y = i % columns * (side + 8), i // columns * (side + line)
        sheet.paste(picture, (x, y))
        for k in range(3):
            pen.text((x, y + side + 2 + 12 * k), label[22 * k : 22 * k + 22], "black")
    sheet.save(path, quality=90)
