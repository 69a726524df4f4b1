"""What every test may ask for: tiny models on disk, and quiet libraries that stay off the net."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported; no test downloads

import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from tests.tiny import tiny_sd1, tiny_sd2, tiny_sdxl

torch.set_num_threads(1)  # models this small gain nothing from a second
for library in (diffusers_logging, transformers_logging):
    library.set_verbosity_error()
    library.disable_progress_bar()


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random SDXL in the diffusers layout; read only."""
    return tiny_sdxl(tmp_path_factory.mktemp("models") / "tiny-sdxl")


@pytest.fixture(scope="session")
def sd1_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random SD 1.5 in the diffusers layout; read only."""
    return tiny_sd1(tmp_path_factory.mktemp("models") / "tiny-sd1")


@pytest.fixture(scope="session")
def sd2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random SD 2.1 (v-prediction) in the diffusers layout; read only."""
    return tiny_sd2(tmp_path_factory.mktemp("models") / "tiny-sd2")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what opens a browser or starts a server: their fixtures tell."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "chromium" in fixtures:
            item.add_marker("browser")
        if "server" in fixtures:
            item.add_marker("process")
    # They wait more than they compute: first, so that other tests use the processor meanwhile.
    items.sort(key=lambda item: item.get_closest_marker("browser") is None)
