"""`studio train --recipe FILE` and `--init FILE`, as they are typed."""

import json
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from tests.ui.cli.conftest import Run


def test_a_recipe_is_repeated_with_and_without_the_kind(
    run: Run, adapter: Path, tmp_path: Path
) -> None:
    first = adapter.parent / "run" / "adapter.safetensors"
    recipe = adapter.parent / "run" / "recipe.toml"
    for number, words in enumerate((["train"], ["train", "lora"])):
        out = tmp_path / f"{number}.safetensors"
        assert run(*words, "--recipe", recipe, "--out", out).code == 0
        assert out.read_bytes() == first.read_bytes()
    out = tmp_path / "other.safetensors"
    assert run("train", f"--recipe={recipe}", "--steps", 1, "--rank", 4, "--out", out).code == 0
    assert out.read_bytes() != first.read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sara", "--recipe"], "is a recipe for lora: leave out sara."),
        (["lora", "--resume", "runs/lora-1", "--recipe"], "leave out --recipe."),
    ],
)
def test_a_recipe_that_does_not_suit_is_refused(
    run: Run, adapter: Path, words: list[str], said: str
) -> None:
    ended = run("train", *words, adapter.parent / "run" / "recipe.toml")
    assert ended.code == 2
    assert said in ended.err


@pytest.mark.parametrize(
    "words", [["generate", "--like", "a.png"], ["train", "--recipe", "a.toml"]]
)
def test_a_strangers_recipe_downloads_no_base_unasked(
    run: Run, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    texts = PngImagePlugin.PngInfo()
    base = {"source": "somebody/model", "dtype": "fp32", "device": "cpu"}
    texts.add_text("studio", json.dumps({"version": 1, "prompt": "a cat", "base": base}))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=texts)
    lines = (adapter.parent / "run" / "recipe.toml").read_text().splitlines()
    known = [f'base = "{base["source"]}"' if one.startswith("base = ") else one for one in lines]
    (tmp_path / "a.toml").write_text("\n".join(known))
    asked: list[None] = []
    monkeypatch.setattr("studio.bases.resolve.is_hub_reachable", lambda: asked.append(None))
    ended = run(*words)
    assert ended.code == 2 and not asked
    assert f"{words[-1]} names the base 'somebody/model', which is not on this machine" in ended.err
    ended = run(*words, "--base", "somebody/model")
    assert ended.code == 2 and asked
    assert "the Hugging Face Hub cannot be reached" in ended.err


def test_an_unknown_field_is_refused_with_the_right_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'kind = "lora"\ntrigger = "x"\npictures = "p"\n[recipe]\nstep = 3\n'
    )
    ended = run("train", "--recipe", "mine.toml")
    assert ended.code == 2
    assert "did you mean 'steps'" in ended.err


def test_a_training_starts_from_an_adapter(
    run: Run, adapter: Path, photos: Path, sdxl_folder: Path
) -> None:
    words = ["train", "lora", photos, "--trigger", "sks robot", "--base", sdxl_folder]
    short = ["--steps", 1, "--batch", 1, "--init", adapter]
    assert run(*words, *short, "--rank", 2, "--out", "on.safetensors").code == 0
    refused = run(*words, *short, "--rank", 1)
    assert refused.code == 2
    assert "its rank is 2: give rank 2 or more" in refused.err


def test_a_second_training_of_a_trigger_wants_another_name(
    run: Run, photos: Path, sdxl_folder: Path
) -> None:
    Path("sks-robot.safetensors").write_text("precious")
    words = ["train", "lora", photos, "--trigger", "sks robot", "--base", sdxl_folder]
    refused = run(*words)
    assert refused.code == 2
    assert "sks-robot.safetensors already exists: give another --out" in refused.err
    assert not Path("runs").exists()
    assert Path("sks-robot.safetensors").read_text() == "precious"
    space = ["--queue", "--workspace", "space"]
    assert run(*words, *space).code == 0  # the library finds a free name


@pytest.mark.parametrize("place", ["{elsewhere}/robot.safetensors", "../robot.safetensors"])
def test_a_recipe_of_a_stranger_writes_into_this_folder_only(
    run: Run,
    adapter: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    text = (adapter.parent / "run" / "recipe.toml").read_text()
    assert str(adapter) in text
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text.replace(str(adapter), place.format(elsewhere=elsewhere)))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = run("train", "--recipe", recipe)
    assert done.code == 0
    assert "outside this folder: the adapter is written to robot.safetensors." in done.err
    assert Path("robot.safetensors").read_bytes() == adapter.read_bytes()
    assert list(elsewhere.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "recipe.toml"]
    again = run("train", "--recipe", recipe)
    assert again.code == 2
    assert "robot.safetensors already exists: give another --out" in again.err


def test_a_recipe_may_write_below_this_folder(run: Run, adapter: Path) -> None:
    text = (adapter.parent / "run" / "recipe.toml").read_text()
    Path("recipe.toml").write_text(text.replace(str(adapter), "made/robot.safetensors"))
    assert run("train", "--recipe", "recipe.toml").code == 0
    assert Path("made/robot.safetensors").is_file()
