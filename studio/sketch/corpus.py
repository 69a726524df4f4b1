"""The corpus that the sketch models learn from: drawings and the scene of each, cached on disk.

A corpus is a folder with ``pictures.npy`` (uint8 [N, 64, 64, 3]) and ``scenes.jsonl`` (a scene on
each line, null for a texture). Picture i depends on the seed and on i alone, so a corpus that was
interrupted is drawn again from the start.
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


def any_scene(rng: np.random.Generator) -> world.Scene:
    """A random scene of the whole world, with the held-out subjects, styles and so on."""
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
    scene = any_scene(rng)
    return np.asarray(world.draw(scene)), scene


def _draw_for_denoiser(index: int) -> tuple[np.ndarray, world.Scene | None]:
    scene = world.sample(np.random.default_rng([2, index]))
    return np.asarray(world.draw(scene)), scene


def pictures_for_autoencoder(folder: Path, count: int) -> Corpus:
    """Scenes of the whole world, and a random texture in every eighth place.

    The VAE must also encode what the UNet never learns, as Stable Diffusion's does. Otherwise no
    adapter could teach the UNet a new style.
    """
    return _load_or_draw(folder, count, _draw_for_autoencoder)


def pictures_for_denoiser(folder: Path, count: int) -> Corpus:
    """Scenes without anything held out."""
    return _load_or_draw(folder, count, _draw_for_denoiser)


def _load_or_draw(folder: Path, count: int, draw: Draw) -> Corpus:
    pictures, scenes = folder / "pictures.npy", folder / "scenes.jsonl"
    if not scenes.exists():
        _draw_all(folder, count, draw)
    with scenes.open() as lines:
        values = [json.loads(line) for line in lines]
    return Corpus(
        np.load(pictures, mmap_mode="r"),
        [world.Scene(**value) if value else None for value in values],
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
                line = json.dumps(dataclasses.asdict(scene) if scene else None)
                lines.write(f"{line}\n".encode())
        out.flush()  # before scenes.jsonl appears, which marks the corpus as whole


def _draw_chunk(draw: Draw, start: int, stop: int) -> tuple[np.ndarray, list[world.Scene | None]]:
    drawn = [draw(index) for index in range(start, stop)]
    return np.stack([picture for picture, _ in drawn]), [scene for _, scene in drawn]
