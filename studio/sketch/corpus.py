"""Drawings that the VAE and the judge learn from, cached on disk in parts.

Part i depends on i alone, so a corpus that was interrupted goes on with the parts that are missing.
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from studio.files import atomic_write
from studio.sketch.art import SIDE
from studio.sketch.draw import draw_batch, to_pixels
from studio.sketch.scenes import Scene, sample_any

PART = 500
BATCH = 20  # scenes drawn at once: the styles' grain is new in each batch


def scenes_of_part(part: int) -> list[Scene]:
    """The scenes of one part, of the whole world."""
    rng = np.random.default_rng([1, part])
    return [sample_any(rng) for _ in range(PART)]


def draw_part(part: int) -> np.ndarray:
    """The pictures of one part, uint8 [500, 128, 128, 3]."""
    scenes = scenes_of_part(part)
    batches = [draw_batch(scenes[start : start + BATCH]) for start in range(0, PART, BATCH)]
    return np.concatenate([to_pixels(batch) for batch in batches])


def draw_varied_part(part: int) -> np.ndarray:
    """Like `draw_part`, with a random texture in every eighth place.

    The VAE must also encode what the UNet never learns, as Stable Diffusion's does. Otherwise no
    adapter could teach the UNet a new style.
    """
    rng = np.random.default_rng([2, part])
    pictures = draw_part(part)
    pictures[::8] = np.stack([np.asarray(texture(rng)) for _ in pictures[::8]])
    return pictures


def pictures(folder: Path, parts: int, draw: Callable[[int], np.ndarray]) -> np.ndarray:
    """Parts 0 to `parts` - 1, uint8 [N, H, W, 3]; those that are missing are drawn first."""
    paths = [folder / f"{part}.npy" for part in range(parts)]
    missing = [part for part, path in enumerate(paths) if not path.exists()]
    context = get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context, initializer=_use_one_thread) as pool:
        for part, drawn in zip(missing, pool.map(draw, missing), strict=True):
            with atomic_write(paths[part], durable=False) as file:
                np.save(file, drawn)
    return np.concatenate([np.load(path, mmap_mode="r") for path in paths])


def _use_one_thread() -> None:
    torch.set_num_threads(1)


def texture(rng: np.random.Generator, size: int = SIDE) -> Image.Image:
    """Colour and pattern without meaning, RGB [size, size]: food for the VAE."""
    first, second = rng.integers(0, 256, (2, 3)).astype(np.float32)
    share = _pattern(rng, size)[..., None]
    pixels = first * (1 - share) + second * share
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((size * 2, size * 2))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 9))):
        paint = tuple(int(v) for v in rng.integers(0, 256, 3))
        line = tuple(int(v) for v in rng.integers(0, 256, 3)) if rng.random() < 0.4 else None
        x, y, w, h = (float(v) for v in rng.uniform(0.05, 0.9, 4) * size * 2)
        if rng.random() < 0.4:
            pen.ellipse((x, y, x + w * 0.6, y + h * 0.6), fill=paint, outline=line, width=4)
        else:
            corners = rng.uniform(-0.3, 0.3, (int(rng.integers(3, 7)), 2)) * size * 2 + (x, y)
            pen.polygon(corners.ravel().tolist(), fill=paint, outline=line, width=4)
    return image.reduce(2)


def _pattern(rng: np.random.Generator, size: int) -> np.ndarray:
    """Gradient, stripes, checks or blobs, float [size, size], 0..1."""
    y, x = np.mgrid[:size, :size] / size
    angle, waves = rng.uniform(0, np.pi), rng.uniform(2, 28)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    kind = rng.integers(5)
    if kind == 0:
        return (along + 1) / 2
    if kind == 1:
        return np.sin(along * waves * 2 * np.pi) / 2 + 0.5
    if kind == 2:
        return ((along * waves) % 1 < 0.5).astype(float)
    if kind == 3:
        return (((along * waves) % 1 < 0.5) ^ ((across * waves) % 1 < 0.5)).astype(float)
    coarse = rng.random((int(rng.integers(3, 20)),) * 2).astype(np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))
    return smooth if rng.random() < 0.5 else (smooth > 0.5).astype(float)
