"""Which component of the tab Mix calls which of its handlers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr

from ui.web._mixing import Mixing
from ui.web._page import told

__all__ = ["wire"]


def wire(mix: Mixing) -> None:
    """Let the components call the handlers."""
    parts, page = mix.parts, mix.page
    on = partial(
        gr.on,
        inputs=parts.given() | {page.adapters, page.recipe, parts.dropped},
        outputs=[*parts.told(), parts.dropped, page.adapters, page.recipe, page.shot, page.tabs],
        show_progress="hidden",
        api_visibility="private",
    )
    changed = [parts.watch.input, parts.start.input, parts.start.clear]
    changed += [choice.input for choice in parts.choices()]  # pyright: ignore
    on(changed, told(mix.change), trigger_mode="always_last")
    on([parts.base.input], told(mix.change_base))
    on([parts.draw.click], told(mix.draw), trigger_mode="always_last")
    on([parts.stop.click], told(mix.stop))
    on([parts.methods.click], told(mix.compare_methods))
    on([parts.grid.click], told(mix.compare_grid))
    on([parts.column.input], told(mix.suggest))
    on([parts.row.input], told(mix.suggest_rows))
    on([parts.timer.tick], told(mix.look))
    on([parts.cards.select], told(mix.add))
    for place, slot in enumerate(parts.slots):
        on([slot.remove.click], told(_at(mix.remove, place)))
    on([parts.history.select, parts.frame.select], told(mix.reopen))
    on([parts.dropped.upload], told(mix.open_file))
    on([parts.batch.click], told(mix.send))
    on([parts.delete.click], told(mix.delete))
    on([parts.undo.click], told(mix.undo))
    on([page.adapters.change], told(mix.add_sent))
    on([page.recipe.change], told(mix.open_sent))
    on([page.tabs.select], told(mix.enter))
    loaded = gr.on(
        None,
        told(mix.load),
        outputs=[*parts.told()],
        show_progress="hidden",
        api_visibility="private",
    )
    loaded.then(
        told(mix.begin),
        inputs=parts.given(),
        outputs=[*parts.told()],
        show_progress="hidden",
        api_visibility="private",
    )


def _at(handler: Callable[[Any, int], Any], place: int) -> Callable[[Any], Any]:
    def run(given: Any) -> Any:
        return handler(given, place)

    return run
