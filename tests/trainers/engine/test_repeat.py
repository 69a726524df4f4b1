"""recipe.toml: enough to make the same file again, any field of it changed, by hand too."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

import trainers
from studio import Base, load_base
from studio.dataset.folders import Folder
from studio.errors import BadInput
from studio.requests.training import read_request
from tests.trainers.learning import SHORT, TRIGGER, learned
from trainers import BLoRA, DiffuseKronA, Kind, LoRA, Progress, SaRA, Step


def repeat(file: Path, base: Base, **changes: object) -> Generator[Progress, None, None]:
    """A training as a recipe says, some fields of its request changed."""
    return trainers.run_request(read_request(file).changed(changes), base)


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
    list(repeat(recipe, opened, run=tmp_path / "again"))
    first, again = (tmp_path / run / "adapter.safetensors" for run in ("run", "again"))
    assert first.read_bytes() == again.read_bytes()


def test_any_field_can_be_another(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    learned(LoRA(rank=4), sdxl, folder, tmp_path / "run")
    events = list(
        repeat(
            tmp_path / "run",
            sdxl,
            trigger="a blue robot",
            run=tmp_path / "other",
            out=tmp_path / "other.safetensors",
            options={"rank": 2, "targets": "all"},
            recipe={"steps": 2, "schedule": "constant", "lr": 5e-4},
        )
    )
    assert [event.lr for event in events if isinstance(event, Step)] == [5e-4, 5e-4]
    written = read_request(tmp_path / "other")
    assert trainers.kind_of(written) == LoRA(rank=2, targets="all")
    assert written.trigger == "a blue robot"
    assert (tmp_path / "other.safetensors").exists()


def test_a_recipe_may_be_written_by_hand(sdxl: Base, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        f'kind = "lora"\ntrigger = "{TRIGGER}"\npictures = "{folder}"\nbase = "{sdxl.source}"\n'
        "[options]\nrank = 4\nalpha = 4\n"
        "[recipe]\nsteps = 6\nbatch = 2\nsave_every = 0\nlr = 1e-3\n"
    )
    list(repeat(path, sdxl, run=tmp_path / "run"))
    learned(LoRA(rank=4, alpha=4), sdxl, folder, tmp_path / "same", **SHORT)
    first, again = (tmp_path / run / "adapter.safetensors" for run in ("run", "same"))
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[recipe]\nstep = 3", r"\[recipe\]: there is no field 'step'; did you mean 'steps'"),
        ("[options]\nranks = 3", "there is no field 'ranks'; did you mean 'rank'"),
        ("triger = 'x'", "there is no field 'triger'; did you mean 'trigger'"),
        ("[options]\nrank = '3'", "rank must be .*; it is '3'"),
        ("[options]\nrank = true", "rank must be .*; it is True"),
        ("[recipe]\nflip = 'yes'", "flip must be true or false; it is 'yes'"),
        ("[recipe]\nsample_prompts = [1]", "item 1 of sample_prompts must be a text; it is 1"),
        ("[options]\ntargets = 'some'", "targets must be one of attention, all; it is 'some'"),
        ("options = 3", "options must be a table"),
        ("[recipe", "cannot be read"),
    ],
)
def test_a_wrong_recipe_is_refused_with_what_is_right(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f"kind = 'lora'\ntrigger = 'robot'\npictures = 'photos'\n{text}\n")
    with pytest.raises(BadInput, match=said):
        trainers.kind_of(read_request(path))


def test_a_recipe_without_its_needs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    with pytest.raises(BadInput, match="there is no recipe"):
        read_request(path)
    path.write_text("kind = 'lora'\npictures = 'photos'\n")
    with pytest.raises(BadInput, match="lacks trigger"):
        read_request(path)
    path.write_text("kind = 'loha'\ntrigger = 'x'\npictures = 'photos'\n")
    with pytest.raises(BadInput, match="no kind 'loha': choose from blora, diffusekrona, lora"):
        trainers.kind_of(read_request(path))
    path.write_text("kind = 'lora'\ntrigger = 'x'\npictures = 'photos'\n")
    with pytest.raises(BadInput, match="there is no field 'rnk'; did you mean 'rank'"):
        trainers.kind_of(read_request(path).changed({"options": {"rnk": 3}}))
    assert trainers.base_of(path) == {"source": "sketch"}
    assert read_request(path).changed({"recipe": {"steps": 3}}).recipe == {"steps": 3}


def test_other_pictures_are_refused_unless_they_are_named(
    sdxl: Base, folder: Path, tmp_path: Path
) -> None:
    learned(LoRA(rank=4), sdxl, folder, tmp_path / "run")
    (folder / "1.txt").write_text("another caption")
    with pytest.raises(BadInput, match=r"no longer those that .* was written for"):
        repeat(tmp_path / "run", sdxl, run=tmp_path / "again")
    assert not (tmp_path / "again").exists()
    named = {"pictures": (Folder(folder),), "run": tmp_path / "named", "recipe": {"steps": 1}}
    list(repeat(tmp_path / "run", sdxl, **named))
    assert read_request(tmp_path / "named").recipe["steps"] == 1


def test_another_base_is_taken_if_it_is_named_and_refused_if_it_took_the_place(
    sdxl: Base, sd1: Base, folder: Path, tmp_path: Path
) -> None:
    learned(LoRA(rank=4), sdxl, folder, tmp_path / "run")
    list(repeat(tmp_path / "run", sd1, run=tmp_path / "sd1", recipe={"steps": 1}))
    recipe = tmp_path / "run" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace(sdxl.fingerprint(), "0" * 64))
    with pytest.raises(BadInput, match="was written for another"):
        repeat(recipe, sdxl, run=tmp_path / "other")
