"""A run's checkpoints at several strengths, on one sheet."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import compose
import trainers
from studio.bases.base import Base
from studio.bases.load import load_base
from studio.errors import BadInput
from studio.requests.shot import Shot
from tests.trainers.conftest import make_pictures
from tests.trainers.learning import SHORT, TRIGGER
from ui import cli
from ui.cli.training.grid import grid_of_run
from ui.shared.checkpoint_grid import checkpoint_table
from ui.shared.labelled_sheet import CELL, draw_table


@pytest.fixture(scope="module")
def sd1(sd1_folder: Path) -> Base:
    return load_base(sd1_folder, device="cpu")


@pytest.fixture(scope="module")
def run(sd1: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of six steps with checkpoints after two and four, and its adapter."""
    folder = tmp_path_factory.mktemp("grid")
    pictures = make_pictures(folder / "pictures", sides=[(64, 64)] * 2)
    options = {**SHORT, "save_every": 2, "lr": 0.02}
    for _ in trainers.train(
        trainers.LoRA(rank=2), sd1, pictures, trigger=TRIGGER, run=folder / "run", **options
    ):
        pass
    return folder / "run"


def test_a_cell_for_each_checkpoint_strength_and_seed(run: Path) -> None:
    cells = grid_of_run(run, strengths=(0.5, 1), seeds=(3, 4))
    assert [(c.step, c.shot.seed, c.strength) for c in cells] == [
        (step, seed, strength) for step in (2, 4, 6) for seed in (3, 4) for strength in (0.5, 1)
    ]
    assert {cell.shot.prompt for cell in cells} == {TRIGGER}
    assert cells[-1].shot.adapters == ((run / "adapter.safetensors", 1),)
    several = grid_of_run(run, strengths=(1,), prompts=("a cat", "a dog"), steps=(4,))
    assert [(cell.step, cell.shot.prompt) for cell in several] == [(4, "a cat"), (4, "a dog")]


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:06d}" / "adapter.safetensors"


def test_each_picture_is_the_one_that_its_shot_gives(run: Path, sd1: Base) -> None:
    cells = grid_of_run(run, strengths=(1.0,), steps=(2, 6))
    events: Any = compose.render_many(sd1, [one.shot for one in cells])
    made = {event.number: event for event in events}
    for number, cell in enumerate(cells):
        file = run / "adapter.safetensors" if cell.step == 6 else checkpoint(run, cell.step)
        alone = compose.render(sd1, Shot(TRIGGER, adapters=((file, 1.0),), seed=0))
        drawn = made[number].picture
        assert np.abs(np.asarray(drawn, int) - np.asarray(alone, int)).max() <= 2
    assert np.asarray(made[0].picture).tolist() != np.asarray(made[1].picture).tolist()


def test_pictures_stand_in_the_rows_of_their_checkpoints(run: Path) -> None:
    cells = grid_of_run(run, strengths=(0.5, 1), prompts=("a cat", "a dog"))
    colours = [(200, 20 * number, 10) for number in range(len(cells))]
    pictures = {n: Image.new("RGB", (64, 64), colour) for n, colour in enumerate(colours)}
    del pictures[5]  # could not be drawn
    seen = np.asarray(draw_table("run", checkpoint_table(cells), pictures))
    corners = [np.argwhere((seen == colour).all(axis=-1)) for colour in colours]
    assert [len(corner) for corner in corners] == [0 if n == 5 else CELL**2 for n in range(12)]
    lefts = [tuple(corner.min(axis=0)) for n, corner in enumerate(corners) if n != 5]
    assert len({x for _, x in lefts}) == 2
    assert len({y for y, _ in lefts}) == 6
    assert lefts == sorted(lefts)


def test_from_the_command_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--strength", "1", "--step", "6", "--prompt", "a cat", "--json"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["grid", str(run), *words])
    assert not ended.value.code
    said = json.loads(capsys.readouterr().out)
    assert said == {"sheet": str(run / "grid.png"), "pictures": 1, "failed": 0}
    with Image.open(run / "grid.png") as sheet:
        assert sheet.width > CELL


def test_what_is_not_there_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no checkpoint of step 3; there are 2, 4, 6"):
        grid_of_run(run, steps=(3,))
    with pytest.raises(BadInput, match="seed must be"):
        grid_of_run(run, seeds=(0, -1))
    with pytest.raises(BadInput, match="is no training's folder"):
        grid_of_run(tmp_path)
