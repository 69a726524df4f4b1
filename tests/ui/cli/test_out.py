"""`--out` where nothing can be written, and the folder of `studio demo`."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tests.ui.cli.conftest import Run
from ui.cli import demo


@pytest.mark.parametrize(
    "words",
    [
        "generate robot --out {folder}/new",
        "generate robot --out {folder}/robot.png",
        "train lora {photos} --trigger t --out {folder}/new/robot.safetensors",
        "demo --out {folder}",
        "train lora {photos} --trigger t --run {folder}/run",
        "distill guidance --out {folder}/fast.safetensors",
        "align palette --colours navy --out {folder}/navy.safetensors",
        "batch {files}/faces.toml --out {folder}/faces",
        "sweep {files}/rates.toml --out {folder}",
        "grid {files}/run --out {folder}/grid.png",
        "schedule --adapter {files}/robot.safetensors --out {folder}/plan.png",
        "convert {files}/robot.safetensors --to kohya --out {folder}/new.safetensors",
        "convert {files}/robot.safetensors --to peft --out {folder}/new",
        "resize {files}/robot.safetensors --rank 1 --out {folder}/new.safetensors",
        "profile {folder}/robot.safetensors",
    ],
)
def test_a_read_only_out_is_refused_before_the_base_is_opened(
    run: Run,
    photos: Path,
    adapter: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    words: str,
) -> None:
    folder, files = tmp_path_factory.mktemp("read-only"), adapter.parent
    (files / "faces.toml").write_text('prompts = ["a cat"]')
    sweep = f'kind = "lora"\ntrigger = "t"\npictures = "{photos}"\n[recipe]\nlr = [1e-3, 1e-4]\n'
    (files / "rates.toml").write_text(sweep)
    may = os.access

    def refuse(path: Path, mode: int) -> bool:  # root may write anywhere
        return may(path, mode) and not (path == folder and mode & os.W_OK)

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a base or an adapter was opened")

    monkeypatch.setattr("os.access", refuse)
    monkeypatch.setattr("studio.bases.load.load_base", opened)
    monkeypatch.setattr("studio.adapters.load.load_adapter", opened)
    ended = run(*words.format(folder=folder, files=files, photos=photos).split())
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


def test_a_picture_that_would_be_no_png_is_refused(run: Run) -> None:
    ended = run("generate", "a cat", "--out", "cat.jpg")
    assert ended.code == 2
    assert "cat.jpg: pictures are written as PNG" in ended.err
    assert not Path("cat.jpg").exists()


def test_train_alone_shows_its_help(run: Run) -> None:
    ended = run("train")
    assert "Train an adapter on a folder of pictures." in ended.out + ended.err
