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
Values = Mapping[Block, Any]  # what stands in components
Update = dict[Block, Any]  # what is to change in them


@dataclass(frozen=True)
class Page:
    """The page under construction. Tabs have the ids train, mix, batch, library and queue.

    tab: the one that is laid out.

    What one tab wants of another it writes into a state here, whose `change` the other listens to:
    adapters: names in the library that Mix is to mix. shot: the Shot that Mix shows, for Batch to
    vary. example: example pictures that Train is to take, by the name of their folder.
    lightbox: its `click` tells the id of a picture whose settings Mix is to open.
    """

    space: Workspace
    tabs: gr.Tabs
    tab: gr.Tab
    adapters: gr.State
    shot: gr.State
    example: gr.State
    lightbox: gr.HTML


def as_html(text: str) -> str:
    """A sentence for a toast. Gradio renders HTML there, which a file's name may contain."""
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

    trigger: `button.click` or an earlier event's `success`; several triggers; or None for the
    opening of the page and every change of the inputs. mode: what becomes of events that come
    while one is answered, as in `gr.on`: "once" drops them. queue: events of one queue are
    answered one at a time, in the order they came in: an answer about an earlier choice might come
    last otherwise. Without outputs, what the handler returns is dropped.
    """
    if handler and not isgeneratorfunction(handler):  # Gradio has to see that one is a generator
        handler = show_bad_input(handler if outputs else _dropping(handler))
    options: dict[str, Any] = {
        "fn": handler,
        "inputs": inputs,
        "outputs": outputs,
        "js": js,
        "show_progress": progress,
        # Else the browser walks all outputs of all events so far, each time that one is begun.
        "show_progress_on": [] if progress == "hidden" else None,
        "trigger_mode": mode,
        "api_visibility": "private",
    }
    if queue:
        options |= {"concurrency_id": queue, "concurrency_limit": 1}
    return trigger(**options) if callable(trigger) else gr.on(trigger, **options)


def _dropping(handler: Callable[P, object]) -> Callable[P, None]:
    """The same handler without a value."""

    @wraps(handler)
    def run(*args: P.args, **given: P.kwargs) -> None:
        handler(*args, **given)

    return run


def show_bad_input(
    handler: Callable[P, R], *, shown: Callable[[str], str] = as_html
) -> Callable[P, R]:
    """Decorate a handler: whoever asked sees the message of a BadInput that it raises.

    The same goes for a full disk and for a file that can't be written. shown: formats the message.
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
