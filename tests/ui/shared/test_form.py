"""A dataclass as options of the command line."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import typer
from typer.testing import CliRunner

import compose
import trainers
from studio.requests.shot import Shot
from ui.shared.form import Field, Form, fields_of, with_options


@dataclass(frozen=True)
class Brush:
    """A form with every type of field."""

    width: int = field(default=3, metadata={"help": "how wide"})
    alpha: float | None = field(default=None, metadata={"help": "how opaque [0 to 1]"})
    round: bool = field(default=False, metadata={"help": "round at its end"})
    dry: bool = field(default=True, metadata={"help": "dry before use"})
    hair: Literal["soft", "stiff"] = field(default="soft", metadata={"help": "its hair"})
    colours: tuple[str, ...] = field(default=(), metadata={"help": "what is on it"})
    box: Path | None = field(default=None, metadata={"help": "where it lies"})


def painting(given: list[Mapping[str, object]]) -> typer.Typer:
    """An application whose one command notes the brush it was given."""
    app = typer.Typer()

    @app.command()
    @with_options({"brush": Form(of=Brush, title="Brush")})
    def paint(wall: str, *, coats: int = 1, brush: Mapping[str, object]) -> None:
        """Paint a wall."""
        given.append({"wall": wall, "coats": coats, **brush})

    return app


def test_fields_say_what_a_widget_needs() -> None:
    fields = {entry.name: entry for entry in fields_of(Form(of=Brush, title="Brush"))}
    assert fields["alpha"] == Field(
        name="alpha", type=float, many=False, choices=(), default=None, help="how opaque [0 to 1]"
    )
    assert fields["hair"].choices == ("soft", "stiff")
    assert fields["colours"].many
    assert fields["colours"].type is str
    assert fields["box"].type is Path


@dataclass(frozen=True)
class Turns:
    """A form with numbers."""

    turns: tuple[int, ...] = field(default=(), metadata={"help": "steps"})
    weights: tuple[float, ...] = field(default=(), metadata={"help": "how much"})


def test_several_numbers_come_one_by_one_or_with_commas() -> None:
    given: list[Mapping[str, object]] = []
    app = typer.Typer()

    @app.command()
    @with_options({"form": Form(of=Turns, title="Turns")})
    def take(*, form: Mapping[str, object]) -> None:
        given.append(form)

    for words in ("", "--turns 7,3 --turns 5", "--weights 2 --weights 0.5"):
        assert CliRunner().invoke(app, words.split()).exit_code == 0
    assert given == [{}, {"turns": (7, 3, 5)}, {"weights": (2.0, 0.5)}]
    wrong = CliRunner().invoke(app, ["--turns", "7,x"])
    assert str(wrong.exception) == "turns: '7,x' is not whole numbers, such as 2,1"


def test_only_what_was_given_reaches_the_command() -> None:
    given: list[Mapping[str, object]] = []
    app = painting(given)
    assert CliRunner().invoke(app, ["north"]).exit_code == 0
    words = "north --coats 2 --width 5 --alpha 0.5 --round --no-dry --hair stiff --box tin"
    assert CliRunner().invoke(app, [*words.split(), "--colours", "red", "--colours", "blue"])
    assert given == [
        {"wall": "north", "coats": 1},
        {
            "wall": "north",
            "coats": 2,
            "width": 5,
            "alpha": 0.5,
            "round": True,
            "dry": False,
            "hair": "stiff",
            "colours": ("red", "blue"),
            "box": Path("tin"),
        },
    ]


@pytest.mark.parametrize("words", ["--width wide", "--hair bald", "--alpha", "--girth 3"])
def test_what_a_field_cannot_hold_is_refused(words: str) -> None:
    assert CliRunner().invoke(painting([]), ["north", *words.split()]).exit_code == 2


def test_help_shows_words_and_defaults() -> None:
    shown = CliRunner().invoke(painting([]), ["--help"], env={"COLUMNS": "120"}).output
    for words in ("How wide.", "default: 3", "How opaque [0 to 1].", "default: on", "soft|stiff"):
        assert words in shown


def test_two_options_of_one_name_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="width"):

        @with_options({"brush": Form(of=Brush, title="Brush")})
        def paint(*, width: int, brush: Mapping[str, object]) -> None:
            raise AssertionError


def test_several_forms_of_one_parameter_have_their_names_before_their_options() -> None:
    given: list[Mapping[str, object]] = []
    app = typer.Typer()
    forms = {name: Form(of=Brush, title=name, prefix=name) for name in ("thin", "thick")}

    @app.command()
    @with_options({"brush": Form(of=Brush, title=""), "brushes": forms})
    def paint(*, brush: Mapping[str, object], brushes: Mapping[str, object]) -> None:
        given.append({"brush": brush, **brushes})

    words = "--thin-width 2 --thick-width 9 --thick-round --no-thin-dry --thick-colours red --round"
    assert CliRunner().invoke(app, words.split()).exit_code == 0
    assert given == [
        {
            "brush": {"round": True},
            "thin": {"width": 2, "dry": False},
            "thick": {"width": 9, "round": True, "colours": ("red",)},
        }
    ]


def test_a_field_of_another_type_is_a_mistake() -> None:
    @dataclass(frozen=True)
    class Odd:
        thing: dict[str, int]

    with pytest.raises(TypeError, match=r"Odd\.thing"):
        fields_of(Form(of=Odd, title="Odd"))


def test_every_kind_method_and_recipe_explains_its_fields() -> None:
    forms = [*trainers.kinds().values(), *compose.methods().values(), trainers.Recipe]
    for form in forms:
        for entry in fields_of(Form(of=form, title="")):
            assert entry.help, f"{form.__name__}.{entry.name} has no help"


def test_every_field_of_a_shot_that_is_asked_for_explains_itself() -> None:
    other = frozenset({"prompt", "base", "adapters", "method", "init_image", "mask"})
    for entry in fields_of(Form(of=Shot, title="", without=other)):
        assert entry.help, f"Shot.{entry.name} has no help"
