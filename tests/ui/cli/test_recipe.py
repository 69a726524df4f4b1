"""`studio train --recipe FILE` and `--init FILE`, as they are typed."""

from pathlib import Path

import pytest

from tests.ui.cli.test_cli import Ended, Run, adapter, photos, run

__all__ = ["Ended", "adapter", "photos", "run"]  # fixtures are found by their names here


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
