"""Mappings become dataclasses, or a BadInput says in sentences what is wrong with each field."""

import json
import pickle
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt

from studio.errors import BadInput
from studio.requests.validation import (
    InvalidFields,
    NotBlank,
    build,
    check,
    check_fields,
    in_words,
)


@dataclass(frozen=True)
class Folder:
    path: Path
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.weight > 100:
            raise BadInput("a weight is at most 100")


@dataclass(frozen=True)
class Options:
    trigger: NotBlank
    steps: Annotated[int, Ge(1)] = 500
    lr: Annotated[float, Gt(0)] = 1e-4
    share: Annotated[float, Ge(0), Le(1)] = 0.0
    decay: Annotated[float, Ge(0), Lt(1)] = 0.0
    size: Annotated[int, Gt(0)] | None = None
    schedule: Literal["constant", "cosine"] = "constant"
    masked: Literal["alpha", "files"] | None = None
    flip: bool = False
    out: Path | None = None
    prompts: tuple[str, ...] = ()
    folders: tuple[Folder, ...] = ()
    pairs: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        check(self)


def test_a_mapping_becomes_a_dataclass() -> None:
    given = {
        "trigger": "a robot",
        "lr": 0.5,
        "size": 64,
        "schedule": "cosine",
        "out": "robot.safetensors",
        "prompts": ["a", "b"],
        "folders": [{"path": "photos", "weight": 2}],
        "pairs": [["a", 1.5]],
    }
    expected = Options(
        "a robot",
        lr=0.5,
        size=64,
        schedule="cosine",
        out=Path("robot.safetensors"),
        prompts=("a", "b"),
        folders=(Folder(Path("photos"), 2.0),),
        pairs=(("a", 1.5),),
    )
    assert build(Options, given) == expected
    assert build(Options, given | {"size": None}).size is None


def test_a_whole_number_stays_one_in_a_field_of_floats() -> None:
    assert json.dumps(build(Options, {"trigger": "a", "lr": 1}).lr) == "1"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"steps": "abc"}, "steps must be a whole number of at least 1; it is 'abc'"),
        ({"steps": "3"}, "steps must be a whole number of at least 1; it is '3'"),
        ({"steps": True}, "steps must be a whole number of at least 1; it is True"),
        ({"steps": 3.0}, "steps must be a whole number of at least 1; it is 3.0"),
        ({"steps": 0}, "steps must be a whole number of at least 1; it is 0"),
        ({"steps": None}, "steps must be a whole number of at least 1; it is None"),
        (
            {"steps": date(2020, 1, 2)},
            "steps must be a whole number of at least 1; it is 2020-01-02",
        ),
        ({"lr": 0}, "lr must be a number above 0; it is 0"),
        ({"lr": float("nan")}, "lr must be a number above 0; it is nan"),
        ({"lr": float("inf")}, "lr must be a number above 0; it is inf"),
        ({"lr": False}, "lr must be a number above 0; it is False"),
        ({"share": 1.5}, "share must be a number from 0 to 1; it is 1.5"),
        ({"decay": 1}, "decay must be a number of at least 0 and below 1; it is 1"),
        ({"size": 0}, "size must be a whole number above 0; it is 0"),
        ({"schedule": "cosin"}, "schedule must be one of constant, cosine; it is 'cosin'"),
        ({"masked": "file"}, "masked must be one of alpha, files; it is 'file'"),
        ({"flip": 1}, "flip must be true or false; it is 1"),
        ({"trigger": " "}, "trigger must be a text that is not empty; it is ' '"),
        ({"prompts": "a robot"}, "prompts must be a list; it is 'a robot'"),
        ({"prompts": ["a", 2]}, "item 2 of prompts must be a text; it is 2"),
        ({"out": 3}, "out must be a path; it is 3"),
        ({"folders": ["photos"]}, "item 1 of folders must be a table; it is 'photos'"),
        ({"folders": [{"weight": 2}]}, "path of item 1 of folders is missing"),
        (
            {"folders": [{"path": "a", "weight": "x"}]},
            "weight of item 1 of folders must be a number; it is 'x'",
        ),
        (
            {"folders": [{"path": "a", "wait": 1}]},
            "there is no field 'wait' in item 1 of folders; did you mean 'weight'?",
        ),
        ({"folders": [{"path": "a", "weight": 101}]}, "item 1 of folders: a weight is at most 100"),
        ({"pairs": [["a", "b"]]}, "item 2 of item 1 of pairs must be a number; it is 'b'"),
        ({"step": 3}, "there is no field 'step'; did you mean 'steps'?"),
        ({"trigger": "a\0b"}, "trigger holds characters that no file can keep; retype it"),
        ({"steps": 10**5000}, "steps holds a number that is too long"),
        ({"prompts": ["\ud800"]}, "prompts holds characters that no file can keep; retype it"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadInput) as refused:
        build(Options, {"trigger": "a robot"} | wrong)
    assert str(refused.value) == sentence


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(InvalidFields) as refused:
        build(Options, {"steps": 0, "step": 1, "lr": -1}, where="recipe.toml")
    assert str(refused.value) == (
        "recipe.toml: steps must be a whole number of at least 1; it is 0. "
        "lr must be a number above 0; it is -1. "
        "there is no field 'step'; did you mean 'steps'? trigger is missing"
    )
    assert list(refused.value.problems) == ["steps", "lr", "step", "trigger"]
    again = pickle.loads(pickle.dumps(refused.value))
    assert again.problems == refused.value.problems


def test_some_fields_are_checked_without_the_others() -> None:
    assert check_fields(Options, {"prompts": ["a"], "steps": 2}) == {"prompts": ("a",), "steps": 2}
    with pytest.raises(BadInput, match="steps must be"):
        check_fields(Options, {"steps": 0})


def test_an_instance_checks_itself() -> None:
    with pytest.raises(BadInput, match="steps must be a whole number of at least 1; it is 0"):
        Options("a", steps=0)
    assert Options("a", folders=(Folder(Path("a")),), out=Path("b")).out == Path("b")


def test_values_are_quoted_shortly() -> None:
    assert in_words(10**30) == "a number that long"
    assert in_words({"a": 1}) == "a table"
    assert in_words(("a",)) == "['a']"
    assert len(in_words("a" * 1000)) == 80
