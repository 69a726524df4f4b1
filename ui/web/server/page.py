"""What the tabs of the page share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import gradio as gr

from studio.errors import BadInput
from studio.workspace import Workspace

__all__ = ["QUIET", "SLOW", "Page", "in_turn", "told"]

P = ParamSpec("P")
R = TypeVar("R")
# How a page's events are wired: those that answer at once, and those that take seconds.
QUIET: Any = {"show_progress": "hidden", "api_visibility": "private"}
SLOW: Any = {"show_progress": "minimal", "api_visibility": "private"}


def in_turn(what: str) -> Any:
    """QUIET, and all events of this name are answered in the order in which they were asked for.

    For what shows a choice: an answer about an earlier choice might come last otherwise.
    """
    return QUIET | {"concurrency_id": what, "concurrency_limit": 1}


@dataclass(frozen=True)
class Page:
    """The page under construction. Tabs have the ids train, mix, batch and library.

    tab: the one that is laid out.

    What one tab wants of another it writes into a state here, whose `change` the other listens to:
    adapters: names in the library that Mix is to mix. shot: what Mix shows, as a recipe, for Batch
    to vary.
    """

    space: Workspace
    tabs: gr.Tabs
    tab: gr.Tab
    adapters: gr.State
    shot: gr.State


def told(handler: Callable[P, R]) -> Callable[P, R]:
    """Decorate what a page calls: a BadInput is shown there as its sentence."""

    @wraps(handler)
    def run(*args: P.args, **given: P.kwargs) -> R:
        try:
            return handler(*args, **given)
        except BadInput as error:
            raise gr.Error(str(error), title="That can't be done", print_exception=False) from error

    return run
