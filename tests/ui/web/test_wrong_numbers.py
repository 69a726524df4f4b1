"""A field that can't be used is named, and nothing can be started with it."""

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr
import pytest

from studio.workspace import open_workspace
from tests.ui.web.conftest import in_a_loop
from ui.web.server.app import build


def _handler(page: gr.Blocks, name: str) -> tuple[Callable[..., Any], list[Any], list[Any]]:
    """A handler of the page, its inputs, and its outputs."""
    found = next(one for one in page.fns.values() if one.name == name)
    assert found.fn
    return found.fn, list(found.inputs), list(found.outputs)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> gr.Blocks:
    async def made() -> gr.Blocks:
        return build(open_workspace(tmp_path_factory.mktemp("space")))

    return in_a_loop(made)


def _labelled(inputs: list[Any], label: str) -> Any:
    return next(one for one in inputs if getattr(one, "label", None) == label)


@pytest.mark.parametrize(
    ("label", "typed", "said"),
    [
        ("Steps", "abc", "steps: &#39;abc&#39; is not a whole number"),
        ("Steps", "0", "steps must be"),
        ("Steps", "-5", "steps must be"),
        ("Steps", "99999999999", "steps must be"),
        ("Learning rate", "nan", "learning rate must be"),
        ("Batch size", "2.5", "batch size: &#39;2.5&#39; is not a whole number"),
    ],
)
def test_train_names_the_field_and_waits(
    page: gr.Blocks, label: str, typed: str, said: str
) -> None:
    check, inputs, _ = _handler(page, "check_form")
    form: Mapping[Any, Any] = {one: one.value for one in inputs}
    problem, summary, start = check(form)
    assert (problem.visible, summary.visible, start.interactive) == (False, True, True)
    problem, summary, start = check({**form, _labelled(inputs, label): typed})
    assert said.lower() in problem.value.lower()
    assert (problem.visible, summary.visible, start.interactive) == (True, False, False)


def test_no_base_is_added_where_nothing_was_typed(page: gr.Blocks) -> None:
    add, *_ = _handler(page, "add_source")
    *_, problem = add(None)
    assert "Type the base to add" in problem.value


def test_a_grid_with_a_wrong_field_has_no_pictures_to_make(page: gr.Blocks) -> None:
    write, inputs, _ = _handler(page, "write")
    values = {one: one.value for one in inputs}
    values[_labelled(inputs, "Prompts")] = "a house"
    _, *form = inputs
    seeds = _labelled(inputs, "Seeds")

    def written(said: str | None, **changed: str) -> Any:
        now = values | ({seeds: changed["seeds"]} if changed else {})
        return write(said, *(now[one] for one in form))

    _, _, before, *_ = written("")
    _, _, after, verdict, start = written(before, seeds="one")
    assert "is not a whole number" in verdict and not start.interactive
    manifest, *_, verdict, start = written(after)
    assert manifest == before and "2 pictures" in verdict and start.value == "Make 2 pictures"
