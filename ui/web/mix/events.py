"""Which event of the tab Mix calls which handler, and which components the handler may change."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from gradio.events import Dependency

from ui.web.mix.adapter_slots import Slot
from ui.web.mix.handlers.drawing import Drawing
from ui.web.mix.handlers.opening import Opening
from ui.web.mix.handlers.pictures import Pictures
from ui.web.mix.handlers.settings import Settings
from ui.web.mix.tab import MixTab
from ui.web.server.page import Components, Page, on

# The queue of nearly all events. It answers one at a time: two at once might both queue a picture.
IN_ORDER = "mix"
LAST = "always_last"  # of the events that come while one is being answered, keep only the last


def mix_tab(page: Page) -> None:
    """Lay the tab out and connect its events."""
    tab = MixTab(page)
    settings = Settings(page, tab)
    _settings_events(page, tab, settings)
    _drawing_events(tab, settings.drawing)
    _history_events(page, tab, Pictures(settings))
    _opening_events(page, tab, Opening(settings))


def _settings_events(page: Page, tab: MixTab, settings: Settings) -> None:
    """When a setting is changed, or an adapter joins or leaves the mix."""
    form, mix, inputs = tab.form, tab.form.adapters, _inputs(tab)
    drawn = _drawing(tab) | _computed(tab)
    placed = drawn | {form.regions.lines}
    mixed = placed | form.mix_outputs() | form.speed_outputs() | {form.prompt}
    changes = [tab.change.input]
    for picture in (form.start, form.mask):
        changes += [picture.input, picture.clear]
    changes += [choice.input for choice in form.choices()]
    _on(changes, settings.change, inputs, drawn, LAST)
    canvas = form.regions.canvas
    placing = [form.method.input, form.regions.masks.input, canvas.input, canvas.clear]
    _on(placing, settings.change_regions, inputs, placed, LAST)
    for written in form.blocks.wire(form.base):
        _on(written.then, settings.change, inputs, drawn, LAST)
    _on([form.start.change], settings.show_in_editor, {form.start}, {form.paint})
    _on([form.use_painted.click], settings.take_painted, inputs | {form.paint}, drawn | {form.mask})
    rebased = drawn | form.mix_outputs() | {tab.auto, form.steps, form.scheduler, form.spacing}
    _on([form.base.input], settings.change_base, inputs, rebased)
    _on([form.examples.click], settings.use_example, inputs, drawn | {form.prompt})
    _on([mix.library.click], settings.add, inputs, mixed)
    _on([form.prompt.blur], settings.take_tags, inputs, mixed)
    skipped = drawn | {form.reading["clip_skip"]}
    _on([form.use_clip_skip.click], settings.use_clip_skip, inputs, skipped)
    _on([form.undo_speed.click], settings.undo_speed, inputs, drawn | form.speed_outputs())
    for place, slot in enumerate(mix.slots):
        _on([slot.remove.click], partial(settings.remove, place=place), inputs, mixed)
        _on([slot.lock.input], _lock(slot), {slot.lock}, {slot.strength, slot.half, slot.remove})
    _on([tab.send.click], settings.send_to_batch, inputs, {page.shot, page.tabs})
    sent = {page.adapters}
    _on([page.adapters.change], settings.add_sent, inputs | sent, mixed | sent)


def _drawing_events(tab: MixTab, drawing: Drawing) -> None:
    """When a picture or a comparison is asked for or stopped."""
    inputs, drawn = _inputs(tab), _drawing(tab)
    _on([tab.draw.click], drawing.draw, inputs, drawn | {tab.form.seed}, LAST)
    _on([tab.stop.click], drawing.stop, {tab.job}, set())
    _on([tab.compare_methods.click], drawing.compare_methods, inputs, drawn)
    _on([tab.compare_grid.click], drawing.compare_grid, inputs, drawn)
    _on([tab.column.input], drawing.suggest_columns, inputs, {tab.columns})
    _on([tab.row.input], drawing.suggest_rows, inputs, {tab.rows})


def _opening_events(page: Page, tab: MixTab, opening: Opening) -> None:
    """When the page is loaded, the tab is opened, or there is news of the job shown."""
    kept, mix, sent = tab.form_kept, tab.form.adapters, {page.adapters}
    watched = {tab.job, tab.job_version, tab.listing}
    _on([tab.news.input], opening.view.poll, watched, _shown(tab), LAST, queue="")
    entered = _drawing(tab) | {mix.library, tab.was_opened, tab.history, tab.delete_picked}
    entered |= {tab.form.base}
    _on([page.tab.select], opening.enter, _inputs(tab) | sent, entered)
    state = (tab.job, tab.own_job, tab.picture, mix.mix)
    changed = [each.change for each in state]
    _on(changed, opening.remember, {*state}, {tab.kept}, LAST)
    loaded = _on(None, opening.load, {kept.stored}, _all(tab), js=kept.reading)
    kept.keep_after(loaded)
    _on(loaded.then, opening.draw_first, _inputs(tab) | sent, entered, mode=None)


def _history_events(page: Page, tab: MixTab, pictures: Pictures) -> None:
    """When a picture is opened, searched, marked, deleted or restored."""
    inputs, everything = _inputs(tab), _all(tab)
    reopened = everything | {tab.listing}
    _on([tab.frame.click], pictures.reopen, inputs, reopened, LAST)
    _on([tab.history.click], pictures.click_history, inputs, reopened, LAST)
    _on([page.lightbox.click], pictures.open_picture, inputs, reopened | {page.tabs}, LAST)
    dropped = {tab.dropped}
    _on([tab.dropped.upload], pictures.open_file, inputs | dropped, everything | dropped, LAST)
    listed = {tab.listing, tab.history, tab.delete_picked}
    filters = {tab.listing, tab.search, tab.favourites, tab.several}
    typed = [tab.search.input, tab.favourites.input, tab.several.input]
    _on(typed, pictures.list_history, filters, listed, LAST)
    _on([tab.star.click], pictures.mark, {tab.picture, tab.listing}, listed | {tab.star})
    removed = _shown(tab) | {tab.deleted, tab.undo}
    picked = {tab.picture, tab.listing}
    _on([tab.delete_picked.click], pictures.delete_picked, picked, removed | {tab.listing})
    trash = {tab.picture, tab.deleted, tab.listing}
    _on([tab.delete.click], pictures.delete, trash, removed)
    _on([tab.undo.click], pictures.undo, trash, removed)


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
    verdict = {tab.schedule, tab.problem, *tab.drawing_buttons()}
    groups = {form.regions.group, form.regions.painting, *form.groups.values()}
    return notes | verdict | groups | {tab.column, tab.row}


def _all(tab: MixTab) -> Components:
    """The components that change when the page is loaded or settings are reopened."""
    more = {tab.auto, tab.form.lock, tab.columns, tab.rows, *tab.form.loading.values()}
    return _drawing(tab) | _shown(tab) | _computed(tab) | tab.form.outputs() | more


def _on(
    trigger: Callable[..., Dependency] | Sequence[Any] | None,
    handler: Callable[..., Any],
    inputs: Components,
    outputs: Components,
    mode: Literal["once", "always_last"] | None = "once",
    queue: str = IN_ORDER,
    js: str | None = None,
) -> Dependency:
    """Wire an event to a handler of values. Give few components: each event sends all of them."""
    # The order must be the same in every process, since pages may outlive their server.
    in_order = sorted(outputs, key=lambda component: component._id)
    return on(trigger, handler, inputs, in_order, mode=mode, queue=queue, js=js)


def _lock(slot: Slot) -> Callable[[Any], Any]:
    def lock(values: Any) -> Any:
        return slot.locked(values[slot.lock])

    return lock
