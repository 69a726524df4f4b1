"""Open the page and the tab Mix, and follow the job that is shown."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import gradio as gr

from studio.errors import BadInput
from studio.queue.client import list_jobs
from studio.queue.job import Job
from studio.requests.shot import Shot
from studio.requests.shot_recipe import shot_to_dict
from ui.shared.queue_requests import drawing_of, find_job
from ui.web.mix.comparison import axes
from ui.web.mix.handlers.settings import Handlers
from ui.web.mix.history import Listing
from ui.web.mix.recipes import shot_of_recipe
from ui.web.mix.remembered import Remembered
from ui.web.mix.shot_form import PLAIN, base_choices
from ui.web.server.fields import shown_on
from ui.web.server.page import Update, Values


class Opening(Handlers):
    """Handlers for a page that is loaded or reloaded, and a tab that is opened."""

    def load(self, values: Values) -> Update:
        """The page is loaded: show what it showed before, or else the latest picture's job."""
        tab = self.tab
        update = {tab.job_version: "", tab.columns: axes(PLAIN)[0].suggestion}
        update |= self.view.history(Listing())
        if stored := tab.form_kept.read(values[tab.form_kept.stored]):
            return update | self._restored(stored)
        job = next(iter(list_jobs(self.space, kinds=("render",), limit=1)), None)
        shot = self._shot_of_job(job) if job else None
        update |= self.settings.filled(shot or PLAIN, {})
        if job is None or shot is None:
            return update
        return update | {tab.job: job.id} | self._queued_as(job) | self.view.show(job)

    def remember(self, values: Values) -> Update:
        """Write down the state that `load` restores beside the widgets' values."""
        tab = self.tab
        mix = values[self.form.adapters.mix]
        kept = Remembered(values[tab.job], values[tab.own_job], values[tab.picture], mix)
        return {tab.kept: kept.write()}

    def _restored(self, stored: Mapping[Any, Any]) -> Update:
        """The page as it was before it was reloaded. stored: the values of its widgets."""
        tab, mix, bases = self.tab, self.form.adapters, base_choices(self.space)
        state = Remembered.read(stored.get(tab.kept))
        restored = {widget: stored.get(widget, widget.value) for widget in tab.form_widgets()}
        if restored[self.form.base] not in dict(bases).values():
            restored[self.form.base] = PLAIN.base
        update: Update = {
            widget: shown_on(widget, value)
            if isinstance(widget, gr.Slider)
            else gr.update(value=value)
            for widget, value in restored.items()
        }
        update[self.form.base] = gr.Dropdown(bases, value=restored[self.form.base])
        job, own_job = find_job(self.space, state.job), find_job(self.space, state.own)
        # The browser doesn't store what is painted; the recipe of the picture shown has it.
        regions = self.form.regions.update(drawing_of(job).shot(0) if job else PLAIN)
        painting = {self.form.regions.canvas: regions[self.form.regions.canvas]}
        values = {**restored, **painting, mix.mix: state.mix}
        update |= {tab.own_job: own_job and own_job.id, **painting}
        try:
            update |= self.form.update_mix(mix.read(values), restored[self.form.base])
            update |= self.settings.computed(self.form.read(values), values)
        except BadInput as wrong:
            update |= self.settings.refused(values, wrong)
        if job:
            return update | {tab.job: job.id} | self._queued_as(job) | self.view.show(job)
        with suppress(BadInput):  # deleted meanwhile
            update |= self.view.picture(state.picture or "")
        return update

    def _queued_as(self, job: Job) -> Update:
        """Note the settings that the job shown was queued with: they are not drawn again."""
        with suppress(BadInput):  # a file of the job is gone
            drawing = drawing_of(job)
            if len(drawing.shots) == 1:
                return {self.tab.queued: (drawing.shot(0), drawing.loading)}
        return {}

    def enter(self, values: Values) -> Update:
        """The tab is opened: show what is new in the library, and draw a first picture.

        The mix stays as it is, since another tab may be sending adapters at the same time.
        """
        if values[self.tab.job_version] is None:  # the page is not loaded yet: see draw_first
            return {self.tab.was_opened: True}
        update: Update = {
            self.form.adapters.library: self.form.adapters.cards(values[self.form.base])
        }
        update |= self.view.history(values[self.tab.listing])
        update[self.form.base] = gr.Dropdown(base_choices(self.space))
        return update | {self.tab.was_opened: True} | self._draw_first(values)

    def draw_first(self, values: Values) -> Update:
        """The page is loaded: draw a first picture if the tab was opened before."""
        drawn = self._draw_first(values) if values[self.tab.was_opened] else {}
        return drawn or gr.skip()  # Gradio complains of missing values in an empty answer

    def _draw_first(self, values: Values) -> Update:
        nothing_shown = values[self.tab.job] is None and values[self.tab.picture] is None
        if nothing_shown and not values[self.page.adapters]:
            with suppress(BadInput):  # the page already names the wrong field
                return self.drawing.draw_change(values, self.form.read(values))
        return {}

    def _shot_of_job(self, job: Job) -> Shot | None:
        """A job's first shot; None where an adapter, a base or a picture of it is gone."""
        with suppress(BadInput):
            shot, missing = shot_of_recipe(self.space, shot_to_dict(drawing_of(job).shot(0)))
            return None if missing else shot
