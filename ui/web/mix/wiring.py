"""Which component of the tab Mix calls which of its handlers."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import gradio as gr
from gradio.events import Dependency

from ui.web.mix.handlers import Mixing
from ui.web.server.page import show_bad_input

__all__ = ["wire"]


def wire(mix: Mixing) -> None:
    """Let the components call the handlers."""
    parts, page = mix.parts, mix.page
    given, told_all = parts.given(), parts.told()
    drawn = parts.forming()
    settled = drawn | parts.depending()
    changed = [parts.watch.input, parts.start.input, parts.start.clear]
    changed += [choice.input for choice in parts.choices()]  # pyright: ignore
    _on(changed, mix.change, given, settled, "always_last")
    _on([parts.base.input], mix.change_base, given, settled | parts.mix() | {parts.auto})
    _on([parts.draw.click], mix.draw, given, drawn | {parts.seed}, "always_last")
    _on([parts.examples.click], mix.example, given, drawn | {parts.prompt})
    _on([parts.stop.click], mix.stop, {parts.job}, {parts.note})
    _on([parts.methods.click], mix.compare_methods, given, drawn)
    _on([parts.grid.click], mix.compare_grid, given, drawn)
    _on([parts.column.input], mix.suggest, given, {parts.columns})
    _on([parts.row.input], mix.suggest_rows, given, {parts.rows})
    watched = {parts.job, parts.seen, parts.many}
    _on([parts.news.input], mix.look, watched, parts.formed(), "always_last")
    mixed = settled | parts.mix() | {parts.prompt}
    _on([parts.cards.click], mix.add, given, mixed)
    for place, slot in enumerate(parts.slots):
        _on([slot.remove.click], _at(mix.remove, place), given, mixed)
    _on([parts.history.click, parts.frame.click], mix.reopen, given, told_all)
    dropped = given | {parts.dropped}
    _on([parts.dropped.upload], mix.open_file, dropped, told_all | {parts.dropped})
    _on([parts.batch.click], mix.send, given, {page.shot, page.tabs})
    shelf = {parts.opened, parts.deleted, parts.many}
    shown = parts.formed() | {parts.deleted, parts.undo}
    _on([parts.delete.click], mix.delete, shelf, shown)
    _on([parts.undo.click], mix.undo, shelf, shown)
    _on([page.adapters.change], mix.add_sent, given | {page.adapters}, mixed | {page.adapters})
    entered = drawn | {parts.cards, parts.open, parts.history, parts.base}
    _on([page.tab.select], mix.enter, given | {page.adapters}, entered)
    loaded = _on(None, mix.load, set(), told_all)
    loaded.then(
        show_bad_input(mix.begin),
        inputs=given | {page.adapters},
        outputs=_in_order(entered),
        show_progress="hidden",
        api_visibility="private",
    )


def _on(
    triggers: Sequence[Any] | None,
    handler: Callable[..., Any],
    given: set[Any],
    shown: set[Any],
    mode: Literal["once", "always_last"] = "once",
) -> Dependency:
    """given, shown: no more than needed, since each event carries all of them to and fro."""
    return gr.on(
        triggers,
        show_bad_input(handler),
        inputs=given or None,
        outputs=_in_order(shown),
        trigger_mode=mode,
        show_progress="hidden",
        api_visibility="private",
    )


def _in_order(shown: set[Any]) -> list[Any]:
    """The same in every process, so that a page which outlives its server is not answered amiss."""
    return sorted(shown, key=lambda one: one._id)


def _at(handler: Callable[[Any, int], Any], place: int) -> Callable[[Any], Any]:
    def run(given: Any) -> Any:
        return handler(given, place)

    return run
