"""What the tabs of the page share: the page under construction, and how events are wired."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import wraps
from html import escape
from inspect import isgeneratorfunction
from typing import Any, Literal, ParamSpec, TypeVar

import gradio as gr
from gradio.blocks import Block, BlockContext
from gradio.components import Component
from gradio.events import Dependency

from studio.errors import BadInput, disk_refusal
from studio.workspace import Workspace
from ui.web.frontend import sentence

P = ParamSpec("P")
R = TypeVar("R")
Components = Set[Component | BlockContext]
Values = Mapping[Block, Any]  # the values of components
Update = dict[Block, Any]  # new values for components


@dataclass(frozen=True)
class Page:
    """The page under construction.

    tabs: their ids are train, mix, batch, library and queue. tab: the tab that is being laid out.
    lightbox: its `click` event carries the id of a picture whose settings Mix is to open.

    A tab asks something of another tab by writing into one of these states; the other tab listens
    to its `change`. adapters: names in the library that Mix is to mix. shot: the Shot that Mix
    shows, for Batch to vary. example: the name of a folder of example pictures, for Train to take.
    """

    space: Workspace
    tabs: gr.Tabs
    tab: gr.Tab
    adapters: gr.State
    shot: gr.State
    example: gr.State
    lightbox: gr.HTML


def as_html(text: str) -> str:
    """A message as a sentence for a toast, escaped.

    Gradio renders toasts as HTML, and the name of a file in the message may contain some.
    """
    return escape(sentence(text), quote=False)


def on(
    trigger: Callable[..., Dependency] | Sequence[Any] | None,
    handler: Callable[..., Any] | None,
    inputs: Any = None,
    outputs: Any = None,
    *,
    js: str | None = None,
    progress: Literal["hidden", "minimal", "full"] = "hidden",
    mode: Literal["once", "multiple", "always_last"] | None = None,
    queue: str = "",
) -> Dependency:
    """Wire an event to a handler; the page shows the message of a BadInput that it raises.

    trigger: `button.click` or an earlier event's `success`; a list of such; or None, which fires
    when the page is opened and when an input changes. mode: what happens to events that come while
    an earlier one is being answered; Gradio's `trigger_mode`, in which "once" drops them. queue:
    events with the same name of a queue are answered one at a time and in order. Otherwise the
    answer about an earlier choice might come last. Without outputs, what the handler returns is
    dropped.
    """
    if handler and not isgeneratorfunction(handler):  # Gradio must see that a generator is one
        handler = show_bad_input(handler if outputs else _dropping(handler))
    options: dict[str, Any] = {
        "fn": handler,
        "inputs": inputs,
        "outputs": outputs,
        "js": js,
        "show_progress": progress,
        # By default the browser walks the outputs of all earlier events whenever an event begins.
        "show_progress_on": [] if progress == "hidden" else None,
        "trigger_mode": mode,
        "api_visibility": "private",
    }
    if queue:
        options |= {"concurrency_id": queue, "concurrency_limit": 1}
    return trigger(**options) if callable(trigger) else gr.on(trigger, **options)


def _dropping(handler: Callable[P, object]) -> Callable[P, None]:
    """The same handler, which returns nothing."""

    @wraps(handler)
    def run(*args: P.args, **given: P.kwargs) -> None:
        handler(*args, **given)

    return run


def show_bad_input(
    handler: Callable[P, R], *, shown: Callable[[str], str] = as_html
) -> Callable[P, R]:
    """Decorate a handler so that the page, or the program, shows the message of a BadInput.

    A full disk and a file that can't be written are shown too. shown: formats the message.
    """

    @wraps(handler)
    def run(*args: P.args, **given: P.kwargs) -> R:
        try:
            return handler(*args, **given)
        except (BadInput, OSError) as error:
            refusal = error if isinstance(error, BadInput) else disk_refusal(error)
            if refusal is None:
                raise
            message = shown(str(refusal))
            raise gr.Error(message, title="That can't be done", print_exception=False) from error

    return run
