"""A form's fields as widgets, read back as values."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from studio.errors import BadInput
from ui.shared.form import Form
from ui.web.server.fields import field_widgets, read_values


@dataclass(frozen=True)
class Dough:
    flour: int = field(default=500, metadata={"help": "grams"})
    salt: float = field(default=0.02, metadata={"help": "share of the flour"})
    oven: Literal["gas", "wood"] | None = field(default=None, metadata={"help": "of the house"})
    rested: bool = field(default=True, metadata={"help": "overnight"})
    seeds: tuple[str, ...] = field(default=(), metadata={"help": "on top"})
    water: int | None = field(default=None, metadata={"help": "grams; default: two thirds"})


FORM = Form(Dough, "")


def test_what_is_left_empty_or_at_its_default_was_not_given() -> None:
    left = {"flour": " ", "salt": "", "oven": None, "rested": True, "seeds": ""}
    assert read_values(FORM, left) == {}
    assert read_values(FORM, {"flour": "500", "salt": 0.02}) == {}


def test_what_was_given_is_of_the_field_s_type() -> None:
    given = {"flour": " 400", "salt": "1e-2", "oven": "wood", "rested": False, "seeds": "rye, oat"}
    assert read_values(FORM, given) == {
        "flour": 400,
        "salt": 0.01,
        "oven": "wood",
        "rested": False,
        "seeds": ("rye", "oat"),
    }


@pytest.mark.parametrize(
    ("typed", "items"),
    [
        ('"rye, dark", oat', ("rye, dark", "oat")),
        ('an "old" rye, , oat,', ('an "old" rye', "oat")),
        ('"an ""old"", dark rye"', ('an "old", dark rye',)),
        ('"rye, oat', ('"rye', "oat")),
    ],
)
def test_an_item_with_a_comma_stands_in_quotes(typed: str, items: tuple[str, ...]) -> None:
    assert read_values(FORM, {"seeds": typed}) == {"seeds": items}
    widgets = field_widgets(FORM)
    shown = widgets.show({"seeds": items})[widgets["seeds"]]
    assert read_values(FORM, {"seeds": shown}) == {"seeds": items}


def test_a_default_that_is_not_the_whole_truth_can_be_asked_for() -> None:
    form = Form(Dough, "", defaults={"flour": "800, in this house"})
    assert read_values(form, {"flour": "500", "salt": ""}) == {"flour": 500}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("flour", "4.5", "flour: '4.5' is not a whole number"),
        ("salt", "some", "salt: 'some' is not a number"),
        ("oven", "coal", "oven: 'coal' is none of gas, wood"),
    ],
)
def test_what_is_none_of_a_field_s_values_is_named(field: str, value: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        read_values(FORM, {field: value})


def test_a_default_is_told_once() -> None:
    told = field_widgets(Form(Dough, "", defaults={"water": "two thirds"}))["water"]
    assert (told.info, told.placeholder) == ("Grams", "two thirds")  # pyright: ignore
    assert field_widgets(FORM)["water"].info == "Grams; default: two thirds"  # pyright: ignore
