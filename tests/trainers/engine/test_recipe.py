"""The loop's options: what is refused, the learning rate's course, the text form."""

from dataclasses import asdict
from pathlib import Path

import pytest

import trainers
from studio import Base
from studio.bases.real_config import real_config
from studio.dataset.folders import Folder
from studio.errors import BadInput
from studio.requests.recipe import Recipe, with_options
from studio.requests.training import TrainingRequest, read_request, to_toml
from tests.trainers.learning import lora_request
from trainers import BLoRA, DiffuseKronA, Kind, LoRA, SaRA
from trainers.engine.resolve import recipe_for


@pytest.mark.parametrize(
    ("schedule", "middle", "end"), [("constant", 1, 1), ("linear", 0.5, 0.0), ("cosine", 0.5, 0.0)]
)
def test_the_learning_rate_rises_and_then_follows_its_course(
    schedule: str, middle: float, end: float
) -> None:
    recipe = with_options(Recipe(), dict(steps=110, warmup=10, lr=1.0, schedule=schedule))
    assert [recipe.rate(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert recipe.rate(60) == pytest.approx(middle)
    assert recipe.rate(110) == pytest.approx(end)


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(BadInput, match="'batch_size'; did you mean 'batch'"):
        with_options(Recipe(), {"batch_size": 4})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps must be a whole number from 1 to 1000000000; it is 0"),
        ({"lr": float("nan")}, "lr must be a number above 0; it is nan"),
        ({"caption_dropout": 2}, "caption_dropout must be a number from 0 to 1; it is 2"),
        ({"schedule": "sine"}, "schedule must be one of constant, cosine, linear"),
        ({"steps": 10, "warmup": 11}, "warmup must be at most steps"),
        ({"noise_offset": float("inf")}, "noise_offset must be a number of at least 0; it is inf"),
        ({"steps": "many"}, "steps must be a whole number from 1 to 1000000000; it is 'many'"),
        ({"batch": 1.5}, "batch must be a whole number"),
        ({"steps": True}, "steps must be a whole number from 1 to 1000000000; it is True"),
    ],
)
def test_a_field_out_of_range_is_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        with_options(Recipe(), options)


def test_a_long_warmup_waits_for_the_steps_that_a_kind_is_trained_for(folder: Path) -> None:
    trainers.check(lora_request(folder, warmup=600))  # SaRA takes 5000 steps, on a real base
    with pytest.raises(BadInput, match="warmup must be at most steps"):
        trainers.check(lora_request(folder, warmup=600, steps=500))


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("sdxl", LoRA(), (500, 1, 1e-4, 1, "constant")),
        ("sdxl", BLoRA(), (1000, 1, 5e-5, 1, "constant")),
        ("sdxl", DiffuseKronA(), (1000, 1, 1e-3, 4, "constant")),
        ("sd15", DiffuseKronA(), (500, 1, 1e-3, 4, "constant")),
        ("sd15", SaRA(), (5000, 4, pytest.approx(4.966e-4, rel=1e-3), 1, "cosine")),
    ],
)
def test_a_kind_starts_as_its_authors_train_it(name: str, kind: Kind, expected: tuple) -> None:
    recipe = recipe_for(real_config(name), kind)
    given = (recipe.steps, recipe.batch, recipe.lr, recipe.accumulation, recipe.schedule)
    assert given == expected


def test_every_kind_is_quick_on_a_sketch(sdxl: Base) -> None:
    assert (
        recipe_for(sdxl, BLoRA())
        == recipe_for(sdxl)
        == Recipe(steps=200, batch=4, lr=2e-3, text_lr=2e-3, schedule="cosine")
    )


def test_the_text_form_reads_back(tmp_path: Path) -> None:
    recipe = Recipe(lr=1e-5, flip=True, sample_prompts=('a "sks"\nrobot \\ \x7f é', "b"))
    pictures = (Folder(tmp_path), Folder(tmp_path / "more", 2.0))
    request = TrainingRequest("lora", "sks", pictures, options={"rank": 4}, recipe=asdict(recipe))
    file = tmp_path / "recipe.toml"
    file.write_text(to_toml(request))
    read = read_request(file)
    assert (read.kind, read.trigger, read.pictures) == ("lora", "sks", pictures)
    assert read.options == {"rank": 4}
    assert with_options(Recipe(), read.recipe) == recipe
