"""Forms that a page keeps while it is reloaded, each page its own.

    kept = KeptForm("train", form.all())
    kept.wire(restore, outputs)       # restore: given {widget: value}, empty on a new page

The browser's session storage has them, so no other page, phone or program takes a form over. What
comes back from there is checked like all that comes from a page: a choice that is gone, or a file
that was never uploaded, is left out.
"""

import json
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from studio.workspace import Workspace
from ui.web.server.downloads import web_folder
from ui.web.server.page import Update, on

LONGEST = 10**6  # letters of a form
READ = "() => sessionStorage.getItem('{key}') ?? ''"
# Takes note only once the form was restored, not of what it was before.
STORE_ALL = """(...values) => {{
  window['{key}'] = {{form: '{form}', values}};
  sessionStorage.setItem('{key}', JSON.stringify(window['{key}']));
}}"""
STORE_ONE = """(value) => {{
  if (!window['{key}']) return;
  window['{key}'].values[{place}] = value;
  sessionStorage.setItem('{key}', JSON.stringify(window['{key}']));
}}"""


class KeptForm:
    """The widgets of a form. stored: the text that the browser has of it, when the page is loaded.

    Makes an invisible component where it is made.
    """

    def __init__(self, space: Workspace, name: str, widgets: Iterable[Component]) -> None:
        self._space = space
        self._widgets = sorted(widgets, key=lambda one: one._id)
        labels = [f"{type(one).__name__} {getattr(one, 'label', '')}" for one in self._widgets]
        # Of another version of Studio nothing is taken over.
        form = sha256("\n".join(labels).encode()).hexdigest()[:12]
        self._words = {"key": f"studio-{name}", "form": form}
        self.stored = gr.Textbox(visible=False)

    @property
    def reading(self) -> str:
        """The script that gives `stored` its value."""
        return READ.format(**self._words)

    def read(self, text: str | None) -> dict[Component, Any]:
        """The values that stood in the widgets; those that can't stand there are left out."""
        try:
            found = json.loads((text or "")[:LONGEST])
            values = found["values"] if found["form"] == self._words["form"] else []
        except (ValueError, TypeError, KeyError):
            return {}
        pairs = zip(self._widgets, values, strict=False) if isinstance(values, list) else ()
        return {one: value for one, given in pairs for value in self._typed(one, given)}

    def wire(
        self, restore: Callable[[dict[Component, Any]], Update], outputs: Iterable[Component]
    ) -> Dependency:
        """Restore the form when the page is loaded, and keep it from then on."""
        shown = list(outputs)
        restored = on(
            None, lambda text: restore(self.read(text)), self.stored, shown, js=self.reading
        )
        self.keep_after(restored)
        return restored

    def keep_after(self, restored: Dependency) -> None:
        """Keep the form from then on when this event, which restores it, was answered."""
        on(restored.then, None, self._widgets, js=STORE_ALL.format(**self._words))
        # An event of its own for each widget: one for all would send all at each of them, and a
        # page that is opened sets every one.
        for place, one in enumerate(self._widgets):
            store = STORE_ONE.format(**self._words, place=place)
            on(one.change, None, one, js=store, mode="multiple")  # pyright: ignore[reportAttributeAccessIssue]

    def _typed(self, widget: Component, value: Any) -> list[Any]:
        """The value in a list; an empty one where this widget can't have it."""
        match widget:
            case gr.Checkbox():
                return [value] if isinstance(value, bool) else []
            case gr.Slider() | gr.Number():
                number = isinstance(value, int | float) and not isinstance(value, bool)
                return [value] if number or value is None else []
            case gr.CheckboxGroup():
                known = [choice for _, choice in widget.choices]
                right = isinstance(value, list) and all(one in known for one in value)
                return [value] if right else []
            case gr.Image():
                return self._uploaded(value)
            case gr.JSON():
                return [value] if isinstance(value, dict) else []
            case gr.Dropdown(multiselect=True):
                right = isinstance(value, list) and all(isinstance(one, str) for one in value)
                return [value] if right else []
        return [value] if value is None or isinstance(value, str) else []

    def _uploaded(self, value: Any) -> list[str]:
        try:
            path = Path(value["path"])
            real = path.resolve(strict=True)
        except (TypeError, KeyError, OSError, ValueError):
            return []
        places = web_folder(self._space).resolve(), self._space.uploads.resolve()
        return [str(path)] if any(real.is_relative_to(place) for place in places) else []
