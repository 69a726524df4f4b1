"""What the page calls the fields and values of code and commands."""

import pytest

from studio.errors import BadInput
from studio.requests.shot import Shot
from studio.requests.validation import check_fields
from trainers import Recipe
from ui.web.words import in_words, value_label, value_named


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("batch: '2.5' is not a whole number", "Batch size: '2.5' is not a whole number"),
        ("token needs new_tokens: give more", 'New word needs "Vectors of a new word": give more'),
        ("text_lr is not lr, and", 'Text encoder learning rate is not "Learning rate", and'),
        ("shot 2: guidance must be 1", "shot 2: CFG scale must be 1"),
        ("klora: adapter 1 is content", "K-LoRA: adapter 1 is content"),
        ("spacing must be one of sgm_uniform", "Step spacing must be one of SGM uniform"),
        # These are words of a sentence, of a file's name, and what somebody typed.
        ("the steps of a batch keep the size", "the steps of a batch keep the size"),
        ("lr.safetensors and text_lr.toml are gone", "lr.safetensors and text_lr.toml are gone"),
        ("'new_tokens' is not a number", "'new_tokens' is not a number"),
    ],
)
def test_a_message_names_fields_as_the_page_does(message: str, said: str) -> None:
    assert in_words(message) == said


def test_the_author_of_a_manifest_sees_its_names_too() -> None:
    said = in_words("shot 2: guidance must be 1; steps must be 2", names=True)
    assert said == "shot 2: CFG scale (guidance) must be 1; Steps must be 2"


def test_every_wrong_field_of_a_recipe_is_called_by_its_label() -> None:
    with pytest.raises(BadInput) as refused:
        check_fields(Recipe, {"lr": -1.0, "batch": 0, "min_snr": -1.0})
    said = in_words(str(refused.value))
    assert all(name in said for name in ("Learning rate", "Batch size", "Min-SNR gamma"))


def test_samplers_and_methods_are_found_by_what_they_are_called() -> None:
    assert value_label("dpmpp_2m") == "DPM++ 2M" and value_named("dpm++ 2m") == "dpmpp_2m"
    assert value_named("K-LoRA") == "klora" and value_named("ink") == "ink"
    Shot("", scheduler=value_named("Euler a")).check()
