"""recipe.toml: enough to make the same file again, any field of it changed, by hand too."""

from pathlib import Path
from typing import Any

import pytest

import trainers
from studio import Base, load_base
from studio.errors import BadInput
from tests.trainers.learning import SHORT, TRIGGER, learned
from trainers import BLoRA, DiffuseKronA, Kind, LoRA, Recipe, SaRA, Step


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (LoRA(rank=4, alpha=3, dropout=0.2), {"flip": True, "crops": 2, "caption_dropout": 0.2}),
        (SaRA(budget=20_000), {"optimizer": "lion", "ema": 0.5}),
        (DiffuseKronA(a1=8), {"warmup": 2, "schedule": "cosine", "sample_prompts": ("a cat",)}),
        (BLoRA(rank=2), {"lora_plus": 4.0, "noise_offset": 0.1}),
    ],
    ids=["lora", "sara", "diffusekrona", "blora"],
)
def test_a_recipe_makes_the_same_file_again(
    sdxl: Base, folder: Path, tmp_path: Path, kind: Kind, options: dict[str, Any]
) -> None:
    learned(kind, sdxl, folder, tmp_path / "run", **options)
    assert trainers.base_of(tmp_path / "run") == {
        "source": sdxl.source,
        "dtype": "fp32",
        "prediction": "epsilon",
    }
    opened = load_base(**trainers.base_of(tmp_path / "run"), device="cpu")
    recipe = tmp_path / "run" / "recipe.toml"
    list(trainers.repeat(recipe, opened, run=tmp_path / "again"))
    first, again = (tmp_path / run / "adapter.safetensors" for run in ("run", "again"))
    assert first.read_bytes() == again.read_bytes()


def test_any_field_can_be_another(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    learned(LoRA(rank=4), sdxl, folder, tmp_path / "run")
    changed = {"steps": 2, "rank": 2, "targets": "all", "schedule": "constant", "lr": 5e-4}
    events = list(
        trainers.repeat(
            tmp_path / "run",
            sdxl,
            trigger="a blue robot",
            run=tmp_path / "other",
            out=tmp_path / "other.safetensors",
            **changed,
        )
    )
    assert [event.lr for event in events if isinstance(event, Step)] == [5e-4, 5e-4]
    written = trainers.read_recipe(tmp_path / "other")
    assert written.kind == LoRA(rank=2, targets="all")
    assert written.trigger == "a blue robot"
    assert (tmp_path / "other.safetensors").exists()


def test_a_recipe_may_be_written_by_hand(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        f'kind = "lora"\ntrigger = "{TRIGGER}"\npictures = "{folder}"\nbase = "{sdxl.source}"\n'
        "[options]\nrank = 4\nalpha = 4\n"
        "[recipe]\nsteps = 6\nbatch = 2\nsave_every = 0\nlr = 1e-3\n"
    )
    list(trainers.repeat(path, sdxl, run=tmp_path / "run"))
    learned(LoRA(rank=4, alpha=4), sdxl, folder, tmp_path / "same", **SHORT)
    first, again = (tmp_path / run / "adapter.safetensors" for run in ("run", "same"))
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[recipe]\nstep = 3", r"\[recipe\] has no field 'step'; did you mean 'steps'"),
        ("[options]\nranks = 3", r"\[options\] has no field 'ranks'; did you mean 'rank'"),
        ("triger = 'x'", "has no field 'triger'; did you mean 'trigger'"),
        ("[options]\nrank = '3'", "rank is not of the right type, it is '3'"),
        ("[options]\nrank = true", "rank is not of the right type"),
        ("[recipe]\nflip = 'yes'", "flip is not of the right type"),
        ("[recipe]\nsample_prompts = [1]", "sample_prompts is not of the right type"),
        ("[options]\ntargets = 'some'", "targets is not of the right type, it is 'some'"),
        ("options = 3", "options is a table"),
        ("[recipe", "cannot be read"),
    ],
)
def test_a_wrong_recipe_is_refused_with_what_is_right(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f"kind = 'lora'\ntrigger = 'robot'\npictures = 'photos'\n{text}\n")
    with pytest.raises(BadInput, match=said):
        trainers.read_recipe(path)


def test_a_recipe_without_its_needs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    with pytest.raises(BadInput, match="there is no recipe"):
        trainers.read_recipe(path)
    path.write_text("kind = 'lora'\npictures = 'photos'\n")
    with pytest.raises(BadInput, match="lacks trigger"):
        trainers.read_recipe(path)
    path.write_text("kind = 'loha'\ntrigger = 'x'\npictures = 'photos'\n")
    with pytest.raises(BadInput, match="names the kind 'loha'; there is blora, diffusekrona, lora"):
        trainers.kind_of(path)
    path.write_text("kind = 'lora'\ntrigger = 'x'\npictures = 'photos'\n")
    with pytest.raises(BadInput, match="a lora training has no field 'rnk'; did you mean 'rank'"):
        trainers.read_recipe(path, rnk=3)
    assert trainers.read_recipe(path, steps=3).base == {"source": "sketch"}
    assert trainers.read_recipe(path, steps=3).options == {"steps": 3}


def test_other_pictures_are_refused_unless_they_are_named(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    learned(LoRA(rank=4), sdxl, folder, tmp_path / "run")
    (folder / "1.txt").write_text("another caption")
    with pytest.raises(BadInput, match=r"no longer those that .* was written for"):
        trainers.repeat(tmp_path / "run", sdxl, run=tmp_path / "again")
    assert not (tmp_path / "again").exists()
    list(trainers.repeat(tmp_path / "run", sdxl, pictures=folder, run=tmp_path / "named", steps=1))
    assert trainers.read_recipe(tmp_path / "named").training["steps"] == 1


def test_another_base_is_taken_if_it_is_named_and_refused_if_it_took_the_place(
    sdxl: Base, sd1: Base, folder: Path, tmp_path: Path
) -> None:
    learned(LoRA(rank=4), sdxl, folder, tmp_path / "run")
    list(trainers.repeat(tmp_path / "run", sd1, run=tmp_path / "sd1", steps=1))
    recipe = tmp_path / "run" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace(sdxl.fingerprint(), "0" * 64))
    with pytest.raises(BadInput, match="was written for another"):
        trainers.repeat(recipe, sdxl, run=tmp_path / "other")


def test_a_recipe_keeps_all_that_is_asked_for(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    options = {"seed": 3, "weight_decay": 0.02, "keep": 2, "min_snr": 0.0, "precision": "bf16"}
    learned(LoRA(rank=4), sdxl, folder, tmp_path / "run", **options)
    written = trainers.read_recipe(tmp_path / "run").recipe(sdxl)
    assert isinstance(written, Recipe)
    assert {name: getattr(written, name) for name in options} == options
