"""The pictures and captions that the sketch models learn from, drawn once and kept on disk.

A corpus is a folder: ``pictures.npy`` (uint8 [N, 64, 64, 3]) and ``scenes.jsonl`` (the truth of
each picture, empty for textures). Drawing is a pure function of (seed, index), so a corpus cut
short by a kill is simply drawn again.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from studio.files import atomic_write
from studio.sketch.world import scenes as world

CHUNK = 500

# index -> (picture, its scene or None)
Draw = Callable[[int], tuple[np.ndarray, world.Scene | None]]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Drawn pictures (uint8 [N, 64, 64, 3], memory-mapped) and the scene of each."""

    pictures: np.ndarray
    scenes: list[world.Scene | None]


def everything(rng: np.random.Generator) -> world.Scene:
    """A scene of the whole world, the held-out parts included."""
    return world.sample(
        rng,
        subjects=world.SUBJECTS,
        backgrounds=world.BACKGROUNDS,
        styles=world.STYLES,
        accessories=world.ACCESSORIES,
    )


def _draw_for_autoencoder(index: int) -> tuple[np.ndarray, world.Scene | None]:
    rng = np.random.default_rng([1, index])
    if index % 8 == 0:
        return np.asarray(world.texture(rng)), None
    scene = everything(rng)
    return np.asarray(world.draw(scene)), scene


def _draw_for_denoiser(index: int) -> tuple[np.ndarray, world.Scene | None]:
    scene = world.sample(np.random.default_rng([2, index]))
    return np.asarray(world.draw(scene)), scene


def pictures_for_autoencoder(folder: Path, count: int) -> Corpus:
    """Every subject, style and background, and one random texture in eight.

    Stable Diffusion's autoencoder encodes pictures its UNet never drew; so must this one, or an
    adapter for a new style would have nothing to stand on.
    """
    return _corpus(folder, count, _draw_for_autoencoder)


def pictures_for_denoiser(folder: Path, count: int) -> Corpus:
    """Scenes without the held-out names: what the base knows."""
    return _corpus(folder, count, _draw_for_denoiser)


def _corpus(folder: Path, count: int, draw: Draw) -> Corpus:
    pictures, scenes = folder / "pictures.npy", folder / "scenes.jsonl"
    if not scenes.exists():
        _draw_all(folder, count, draw)
    with scenes.open() as lines:
        truth = [json.loads(line) for line in lines]
    return Corpus(
        np.load(pictures, mmap_mode="r"), [world.Scene(**one) if one else None for one in truth]
    )


def _draw_all(folder: Path, count: int, draw: Draw) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    out = np.lib.format.open_memmap(
        folder / "pictures.npy", mode="w+", dtype=np.uint8, shape=(count, 64, 64, 3)
    )
    scenes_file = atomic_write(folder / "scenes.jsonl", durable=False)
    with ProcessPoolExecutor(os.cpu_count()) as pool, scenes_file as lines:
        starts = range(0, count, CHUNK)
        chunks: Iterator = pool.map(
            _draw_chunk, [draw] * len(starts), starts, [min(s + CHUNK, count) for s in starts]
        )
        for start, (pictures, scenes) in zip(starts, chunks, strict=True):
            out[start : start + len(pictures)] = pictures
            for scene in scenes:
                told = json.dumps(dataclasses.asdict(scene) if scene else None)
                lines.write(f"{told}\n".encode())
        out.flush()  # before there are scenes that tell of them


def _draw_chunk(draw: Draw, start: int, stop: int) -> tuple[np.ndarray, list[world.Scene | None]]:
    drawn = [draw(index) for index in range(start, stop)]
    return np.stack([picture for picture, _ in drawn]), [scene for _, scene in drawn]
