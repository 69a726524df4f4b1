"""A folder of pictures that nobody photographed, and the tiny bases to train on."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from studio import Base, load_base
from studio.bases.device import PRECISIONS
from tests.tiny import tiny_sdxl


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three coloured noise pictures, 64 x 64, one with a caption of its own."""
    return make_pictures(tmp_path / "pictures", sides=[(64, 64)] * 3)


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random SDXL with one layer a block, as so many tests here run it; read only."""
    return tiny_sdxl(tmp_path_factory.mktemp("models") / "tiny-sdxl", layers=1)


@pytest.fixture(scope="session")
def sdxl(sdxl_folder: Path) -> Base:
    """The tiny SDXL; trainings lend it and give it back as it was."""
    return load_base(sdxl_folder, device="cpu")


@pytest.fixture(scope="session")
def sd1(sd1_folder: Path) -> Base:
    """The tiny SD 1.5."""
    return load_base(sd1_folder, device="cpu")


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch, sdxl: Base, sd1: Base) -> Iterator[None]:
    """Weights, noise, losses and optimisers in double precision, for comparing two trainings.

    Adam moves a number by the whole learning rate, however small its gradient is. In single
    precision the smallest gradients are rounding errors, and their sign differs between processors.
    The shared bases are asked for so that they are there before the default precision changes.
    """
    monkeypatch.setitem(PRECISIONS, "fp64", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def sdxl64(float64: None, sdxl_folder: Path) -> Base:
    """The tiny SDXL in double precision."""
    return load_base(sdxl_folder, device="cpu", dtype="fp64")


@pytest.fixture
def sd1_64(float64: None, sd1_folder: Path) -> Base:
    """The tiny SD 1.5 in double precision."""
    return load_base(sd1_folder, device="cpu", dtype="fp64")


def make_pictures(folder: Path, sides: list[tuple[int, int]]) -> Path:
    """Write a PNG of noise for each (width, height); the first has a caption file."""
    folder.mkdir(parents=True)
    for number, (width, height) in enumerate(sides):
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    (folder / "0.txt").write_text("a photo of a sks robot in red")
    return folder
