"""`--out` where nothing can be written, and the folder of `studio demo`."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tests.ui.cli.test_cli import Ended, Run, photos, run
from ui.cli import demo

__all__ = ["Ended", "photos", "run"]  # fixtures are found by their names here


@pytest.mark.parametrize(
    "words",
    [
        "generate robot --out {folder}/new",
        "generate robot --out {folder}/robot.png",
        "train lora {photos} --trigger t --out {folder}/new/robot.safetensors",
        "demo --out {folder}",
    ],
)
def test_a_read_only_out_is_refused_before_the_base_is_opened(
    run: Run,
    photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    words: str,
) -> None:
    folder = tmp_path_factory.mktemp("read-only")
    may = os.access

    def refuse(path: Path, mode: int) -> bool:  # root may write anywhere
        return may(path, mode) and not (path == folder and mode & os.W_OK)

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("the base was opened")

    monkeypatch.setattr("os.access", refuse)
    monkeypatch.setattr("studio.bases.load.load_base", opened)
    ended = run(*words.format(folder=folder, photos=photos).split())
    assert ended.code == 2
    assert f"you may not write into {folder}" in ended.err


def test_a_demo_replaces_what_a_demo_left_and_nothing_else(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learn(lesson: demo.Lesson, base: object, out: Path) -> object:
        (out / lesson.file).write_text(lesson.trigger)
        return lesson

    monkeypatch.setattr(demo, "open_base", lambda *_: SimpleNamespace())
    monkeypatch.setattr(demo, "_learn", learn)
    monkeypatch.setattr(demo, "_draw_sheet", lambda *_: Image.new("RGB", (8, 8)))
    Path("mine").mkdir()
    Path("mine/robot.safetensors").write_text("precious")
    refused = run("demo", "--out", "mine")
    assert refused.code == 2
    assert "robot.safetensors already exists" in refused.err
    assert Path("mine/robot.safetensors").read_text() == "precious"
    for _ in range(2):
        assert run("demo").code == 0
    names = sorted(path.name for path in Path("demo").iterdir())
    assert names == ["glass.safetensors", "robot.safetensors", "sheet.png"]
