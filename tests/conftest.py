"""What every test may ask for: tiny models on disk, and quiet libraries that stay off the net."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported; no test downloads

import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from studio.workspace import Workspace, open_workspace
from tests.tiny import tiny_sd1, tiny_sd2, tiny_sdxl

PAGE = Path(__file__).parent / "ui" / "web"

gc.disable()  # until all is imported: nearly all of that stays
torch.set_num_threads(1)  # models this small gain nothing from a second
torch.manual_seed(0)  # of the layers that modules make when they are imported
for library in (diffusers_logging, transformers_logging):
    library.set_verbosity_error()
    library.disable_progress_bar()


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """A test draws the same numbers in every run, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    """A workspace with nothing in it."""
    return open_workspace(tmp_path / "space")


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


def pytest_collection_finish() -> None:
    """The collector looks at what tests make, and not again and again at what was imported."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def thawed() -> Iterator[None]:
    """The collector as it is in any other process."""
    gc.unfreeze()
    yield
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what opens a browser or starts a server, which their fixtures tell; long files first.

    A long file that is begun last leaves all other processes without work.
    """
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "chromium" in fixtures:
            item.add_marker("browser")
        if "server" in fixtures:
            item.add_marker("process")
    marks = ("browser", "process", "quality")
    long = {item.path for item in items if any(map(item.get_closest_marker, marks))}
    # The page's tests wait more than they compute: others use the processor meanwhile.
    items.sort(key=lambda item: (item.path.parent != PAGE, item.path not in long))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Share tests out by files; those of the page are one, as each process has its own server."""
    from xdist.scheduler import LoadFileScheduling

    class OneServer(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "page" if file.startswith("tests/ui/web/") else file

    return OneServer(config, log) if config.option.dist == "loadfile" else None
