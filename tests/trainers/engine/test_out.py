"""`out`, the adapter's file that the user names: no file of others is replaced."""

from pathlib import Path
from typing import Any

import pytest

import trainers
from studio import Base
from studio.errors import BadInput
from studio.requests.training import from_table
from trainers import Finished, LoRA, Step

SHORT = {"trigger": "a sks robot", "steps": 2, "batch": 1, "save_every": 1}


def test_a_file_that_exists_is_refused_before_the_start(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "robot.safetensors"
    out.write_text("precious")
    said = r"robot.safetensors already exists: give another --out"
    with pytest.raises(BadInput, match=said):
        trainers.train(LoRA(rank=2), sdxl, folder, run=tmp_path / "run", out=out, **SHORT)
    table = {"kind": "lora", "trigger": "sks", "pictures": str(folder), "out": str(out)}
    with pytest.raises(BadInput, match=said):  # without a base
        trainers.check(from_table(table))
    out.unlink()
    out.symlink_to(tmp_path / "nothing there")
    with pytest.raises(BadInput, match=said):
        trainers.check(from_table(table))
    assert not (tmp_path / "run").exists()


def test_a_run_and_its_file_may_lie_in_the_home_folder(
    sdxl: Base, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    out, run = "~/new/robot.safetensors", "~/new/run"
    *_, finished = trainers.train(LoRA(rank=2), sdxl, folder, run=run, out=out, **SHORT)
    assert isinstance(finished, Finished)
    assert finished.path == tmp_path / "new" / "robot.safetensors"
    assert (tmp_path / "new" / "run" / "recipe.toml").is_file()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("kind", [LoRA, "lora"])
def test_a_kind_is_given_with_its_options(sdxl: Base, folder: Path, kind: Any) -> None:
    with pytest.raises(
        BadInput, match=r"such as trainers.LoRA\(rank=16\), and not .*[Ll]o[Rr][Aa]"
    ):
        trainers.train(kind, sdxl, folder, **SHORT)


def test_a_file_that_appears_meanwhile_stays(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "robot.safetensors"
    run = trainers.train(LoRA(rank=2), sdxl, folder, run=tmp_path / "run", out=out, **SHORT)
    with pytest.raises(BadInput, match=r"already exists.* finished, it is .*run/adapter"):
        for event in run:
            if isinstance(event, Step):
                out.write_text("precious")
    assert out.read_text() == "precious"
    assert (tmp_path / "run" / "adapter.safetensors").is_file()


def test_a_resumed_run_may_write_its_own_file_again_and_no_other(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "robot.safetensors"
    first = trainers.train(LoRA(rank=2), sdxl, folder, run=tmp_path / "run", out=out, **SHORT)
    assert isinstance(list(first)[-1], Finished)
    written = out.read_bytes()
    (tmp_path / "run" / "adapter.safetensors").unlink()
    *_, finished = trainers.resume(tmp_path / "run", sdxl)
    assert isinstance(finished, Finished)
    assert finished.path == out
    assert out.read_bytes() == written
    (tmp_path / "run" / "adapter.safetensors").unlink()
    out.write_text("precious")
    with pytest.raises(BadInput, match="move that file away"):
        trainers.resume(tmp_path / "run", sdxl)
    assert out.read_text() == "precious"
