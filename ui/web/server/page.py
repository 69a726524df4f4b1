"""What the tabs of the page share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import gradio as gr

from studio.errors import BadInput
from studio.workspace import Workspace

__all__ = ["QUIET", "SLOW", "Page", "in_order", "show_bad_input"]

P = ParamSpec("P")
R = TypeVar("R")
# How a page's events are wired: those that answer at once, and those that take seconds.
QUIET: Any = {"show_progress": "hidden", "api_visibility": "private"}
SLOW: Any = {"show_progress": "minimal", "api_visibility": "private"}


def in_order(queue: str) -> Any:
    """QUIET, and events of this queue are answered one at a time, in the order they came in.

    For events that show a choice: an answer about an earlier choice might come last otherwise.
    """
    return QUIET | {"concurrency_id": queue, "concurrency_limit": 1}


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


def show_bad_input(handler: Callable[P, R]) -> Callable[P, R]:
    """Decorate a handler: the page shows the message of a BadInput that it raises."""

    @wraps(handler)
    def run(*args: P.args, **given: P.kwargs) -> R:
        try:
            return handler(*args, **given)
        except BadInput as error:
            raise gr.Error(str(error), title="That can't be done", print_exception=False) from error

    return run
