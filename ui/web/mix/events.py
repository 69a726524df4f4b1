"""Which event of the tab Mix calls which handler, and which components that one may change."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from gradio.events import Dependency

from ui.web.mix.adapter_slots import Slot
from ui.web.mix.handlers import Handlers
from ui.web.mix.tab import MixTab
from ui.web.server.page import Components, Page, on

# One event at a time: two at once would each queue a picture that the other has queued already.
IN_ORDER = "mix"


def mix_tab(page: Page) -> None:
    """Lay the tab out and connect its events."""
    tab = MixTab(page)
    do = Handlers(page, tab)
    form, mix = tab.form, tab.form.adapters
    inputs, drawing, everything = _inputs(tab), _drawing(tab), _all(tab)
    drawn = drawing | _computed(tab)
    mixed = drawn | form.mix_outputs() | form.speed_outputs() | {form.prompt}
    changes = [tab.change.input]
    for picture in (form.start, form.mask):
        changes += [picture.input, picture.clear]
    changes += [choice.input for choice in form.choices()]
    changes += [form.regions.canvas.input, form.regions.canvas.clear]
    _on(changes, do.change, inputs, drawn, "always_last")
    _on([form.start.change], do.show_in_editor, {form.start}, {form.paint})
    _on([form.use_painted.click], do.take_painted, inputs | {form.paint}, drawn | {form.mask})
    rebased = drawn | form.mix_outputs() | {tab.auto, form.steps}
    _on([form.base.input], do.change_base, inputs, rebased)
    _on([form.examples.click], do.use_example, inputs, drawn | {form.prompt})
    _on([mix.library.click], do.add, inputs, mixed)
    _on([form.prompt.blur], do.take_tags, inputs, mixed)
    skipped = drawn | {form.reading["clip_skip"]}
    _on([form.use_clip_skip.click], do.use_clip_skip, inputs, skipped)
    _on([form.undo_speed.click], do.undo_speed, inputs, drawn | form.speed_outputs())
    for place, slot in enumerate(mix.slots):
        _on([slot.remove.click], _remove_at(do, place), inputs, mixed)
        _on([slot.lock.input], _lock(slot), {slot.lock}, {slot.strength, slot.half, slot.remove})
    for written in form.blocks.wire(form.base):
        on(written.then, do.change, inputs, _in_order(drawn), mode="always_last", queue=IN_ORDER)
    _on([tab.draw.click], do.draw, inputs, drawing | {form.seed}, "always_last")
    _on([tab.stop.click], do.stop, {tab.job}, set())
    _on([tab.compare_methods.click], do.compare_methods, inputs, drawing)
    _on([tab.compare_grid.click], do.compare_grid, inputs, drawing)
    _on([tab.column.input], do.suggest_columns, inputs, {tab.columns})
    _on([tab.row.input], do.suggest_rows, inputs, {tab.rows})
    _history_events(page, tab, do)
    _on([tab.send.click], do.send_to_batch, inputs, {page.shot, page.tabs})
    sent = {page.adapters}
    _on([page.adapters.change], do.add_sent, inputs | sent, mixed | sent)
    entered = drawing | {mix.library, tab.was_opened, tab.history, tab.delete_picked, form.base}
    _on([page.tab.select], do.enter, inputs | sent, entered)
    remembered = (tab.job, tab.own_job, tab.picture, mix.mix)
    _on([one.change for one in remembered], do.remember, {*remembered}, {tab.kept}, "always_last")
    kept = tab.form_kept
    loaded = _on(None, do.load, {kept.stored}, everything, js=kept.reading)
    kept.keep_after(loaded)
    on(loaded.then, do.draw_first, inputs | sent, _in_order(entered), queue=IN_ORDER)


def _history_events(page: Page, tab: MixTab, do: Handlers) -> None:
    """What is made while the page looks on, and the pictures that were made before."""
    inputs, everything = _inputs(tab), _all(tab)
    watched = {tab.job, tab.job_version, tab.listing}
    _on([tab.news.input], do.poll, watched, _shown(tab), "always_last", queue="")
    reopened = everything | {tab.listing}
    _on([tab.frame.click], do.reopen, inputs, reopened, "always_last")
    _on([tab.history.click], do.click_history, inputs, reopened, "always_last")
    listed = {tab.listing, tab.history, tab.delete_picked}
    filters = {tab.listing, tab.search, tab.favourites, tab.several}
    typed = [tab.search.input, tab.favourites.input, tab.several.input]
    _on(typed, do.list_history, filters, listed, "always_last")
    _on([tab.star.click], do.mark, {tab.picture, tab.listing}, listed | {tab.star})
    removed = _shown(tab) | {tab.deleted, tab.undo, tab.listing}
    _on([tab.delete_picked.click], do.delete_picked, {tab.picture, tab.listing}, removed)
    _on([page.lightbox.click], do.open_picture, inputs, reopened | {page.tabs}, "always_last")
    _on(
        [tab.dropped.upload],
        do.open_file,
        inputs | {tab.dropped},
        everything | {tab.dropped},
        "always_last",
    )
    trash = {tab.picture, tab.deleted, tab.listing}
    _on([tab.delete.click], do.delete, trash, _shown(tab) | {tab.deleted, tab.undo})
    _on([tab.undo.click], do.undo, trash, _shown(tab) | {tab.deleted, tab.undo})


def _inputs(tab: MixTab) -> Components:
    """The settings, and what the page remembers."""
    remembered = {
        tab.job, tab.own_job, tab.job_version, tab.queued, tab.picture, tab.was_opened,
        tab.listing,
    }  # fmt: skip
    options = {tab.auto, tab.form.lock, tab.column, tab.columns, tab.row, tab.rows}
    return remembered | options | tab.form.inputs()


def _drawing(tab: MixTab) -> Components:
    """The components that change when a picture is queued."""
    remembered = {tab.job, tab.own_job, tab.job_version, tab.queued, tab.picture}
    return remembered | {tab.frame, tab.note, tab.notice, tab.stop, tab.delete}


def _shown(tab: MixTab) -> Components:
    """The components that change while a picture is made, and when it is done."""
    shown = {tab.frame, tab.note, tab.stop, tab.delete, tab.star, tab.schedule}
    shown |= {tab.history, tab.delete_picked}
    return shown | {tab.job_version, tab.picture}


def _computed(tab: MixTab) -> Components:
    """The components that depend on the settings alone."""
    form = tab.form
    notes = {form.sampling_note, form.clip_note, form.use_clip_skip}
    said = {tab.schedule, tab.problem, *tab.drawing_buttons()}
    groups = {form.regions.group, *form.groups.values()}
    return notes | said | groups | {tab.column, tab.row}


def _all(tab: MixTab) -> Components:
    """The components that change when the page is loaded or settings are reopened."""
    more = {tab.auto, tab.form.lock, tab.columns, tab.rows, *tab.form.loading.values()}
    return _drawing(tab) | _shown(tab) | _computed(tab) | tab.form.outputs() | more


def _on(
    triggers: Sequence[Any] | None,
    handler: Callable[..., Any],
    inputs: Components,
    outputs: Components,
    mode: Literal["once", "always_last"] = "once",
    queue: str = IN_ORDER,
    js: str | None = None,
) -> Dependency:
    """Inputs and outputs are as few as possible, since each event sends all of them."""
    return on(triggers, handler, inputs, _in_order(outputs), mode=mode, queue=queue, js=js)


def _in_order(outputs: Components) -> list[Any]:
    """The same order in every process, for pages that outlive their server."""
    return sorted(outputs, key=lambda one: one._id)


def _lock(slot: Slot) -> Callable[[Any], Any]:
    def lock(values: Any) -> Any:
        return slot.locked(values[slot.lock])

    return lock


def _remove_at(do: Handlers, place: int) -> Callable[[Any], Any]:
    def remove(values: Any) -> Any:
        return do.remove(values, place)

    return remove
