"""Commands as they are typed, on a tiny random SDXL."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ui import cli
from ui.shared import terminal

Run = Callable[..., "Ended"]


class Ended:
    """What a command said and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> object:
        return json.loads(self.out)


@pytest.fixture
def run(
    quick_trainings: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal, "_stdout", Console(width=200, highlight=False))

    def run(*words: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        said = capsys.readouterr()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 0, said.out, said.err)

    return run


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures, one of them with a caption."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(3):
        noise = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((64, 64)).save(folder / f"{number}.png")
    (folder / "0.txt").write_text("a red robot")
    return folder


@pytest.fixture(scope="module")
def adapter(
    quick_trainings: None,
    sdxl_folder: Path,
    photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """An adapter trained for three steps by the command line."""
    folder = tmp_path_factory.mktemp("trained")
    path = folder / "robot.safetensors"
    words = ["train", "lora", photos, "--trigger", "sks robot", "--base", sdxl_folder, "--out"]
    short = ["--run", folder / "run", "--steps", 3, "--batch", 1, "--rank", 2]
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in [*words, path, *short]])
    assert ended.value.code == 0
    return path
