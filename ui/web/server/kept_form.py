"""Forms that keep their values when the page is reloaded.

    kept = KeptForm("train", form.all())
    kept.wire(restore, outputs)       # restore: given {widget: value}, empty on a new page

The values are in the browser's session storage, so each open page has its own. What comes back from
there is checked like everything that a browser sends: a choice that no longer exists, or a file
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

LONGEST = 10**6  # characters of a stored form
READ = "() => sessionStorage.getItem('{key}') ?? ''"
# STORE_ALL runs when the form has been restored. Until then STORE_ONE must not store anything: the
# widgets still have the values of a new page.
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
    """Keeps the values of a form's widgets.

    stored: an invisible component, laid out here, that gets the browser's text when the page is
    loaded.
    """

    def __init__(self, space: Workspace, name: str, widgets: Iterable[Component]) -> None:
        self._space = space
        self._widgets = sorted(widgets, key=lambda widget: widget._id)
        labels = [f"{type(each).__name__} {getattr(each, 'label', '')}" for each in self._widgets]
        # The hash differs where another version of Studio, with other widgets, stored the values.
        form = sha256("\n".join(labels).encode()).hexdigest()[:12]
        self._words = {"key": f"studio-{name}", "form": form}
        self.stored = gr.Textbox(visible=False)

    @property
    def reading(self) -> str:
        """The script that reads the value of `stored` in the browser."""
        return READ.format(**self._words)

    def read(self, text: str | None) -> dict[Component, Any]:
        """The stored values by widget; a value that its widget cannot have is left out."""
        try:
            stored = json.loads((text or "")[:LONGEST])
            values = stored["values"] if stored["form"] == self._words["form"] else []
        except (ValueError, TypeError, KeyError):
            return {}
        pairs = zip(self._widgets, values, strict=False) if isinstance(values, list) else ()
        return {widget: value for widget, raw in pairs for value in self._checked(widget, raw)}

    def wire(
        self, restore: Callable[[dict[Component, Any]], Update], outputs: Iterable[Component]
    ) -> Dependency:
        """Restore the form when the page is loaded, and keep its values from then on."""
        shown = list(outputs)
        restored = on(
            None, lambda text: restore(self.read(text)), self.stored, shown, js=self.reading
        )
        self.keep_after(restored)
        return restored

    def keep_after(self, restored: Dependency) -> None:
        """Keep the form's values once `restored`, the event that restores them, is answered."""
        on(restored.then, None, self._widgets, js=STORE_ALL.format(**self._words))
        # One event for each widget. A single event for all would send all values at each change,
        # and opening the page changes every widget.
        for place, widget in enumerate(self._widgets):
            store = STORE_ONE.format(**self._words, place=place)
            on(widget.change, None, widget, js=store, mode="multiple")  # pyright: ignore[reportAttributeAccessIssue]

    def _checked(self, widget: Component, value: Any) -> list[Any]:
        """[value], or [] where this widget cannot have the value."""
        match widget:
            case gr.Checkbox():
                return [value] if isinstance(value, bool) else []
            case gr.Slider() | gr.Number():
                number = isinstance(value, int | float) and not isinstance(value, bool)
                return [value] if number or value is None else []
            case gr.CheckboxGroup():
                known = [choice for _, choice in widget.choices]
                valid = isinstance(value, list) and all(choice in known for choice in value)
                return [value] if valid else []
            case gr.Image():
                return self._uploaded(value)
            case gr.JSON():
                return [value] if isinstance(value, dict) else []
            case gr.Dropdown(multiselect=True):
                valid = isinstance(value, list) and all(isinstance(item, str) for item in value)
                return [value] if valid else []
        return [value] if value is None or isinstance(value, str) else []

    def _uploaded(self, value: Any) -> list[str]:
        try:
            path = Path(value["path"])
            real = path.resolve(strict=True)
        except (TypeError, KeyError, OSError, ValueError):
            return []
        folders = web_folder(self._space).resolve(), self._space.uploads.resolve()
        return [str(path)] if any(real.is_relative_to(folder) for folder in folders) else []
