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
    """What a page shows when it is loaded, reloaded or looked at again."""

    def load(self, values: Values) -> Update:
        """The page is loaded: it shows what it showed before, or the last picture asked for."""
        tab = self.tab
        update = {tab.job_version: "", tab.columns: axes(PLAIN)[0].suggestion}
        update |= self.view.history(Listing())
        if found := tab.form_kept.read(values[tab.form_kept.stored]):
            return update | self._restored(found)
        job = next(iter(list_jobs(self.space, kinds=("render",), limit=1)), None)
        shot = self._shot_of_job(job) if job else None
        update |= self.settings.filled(shot or PLAIN, {})
        if job is None or shot is None:
            return update
        return update | {tab.job: job.id} | self._queued_as(job) | self.view.show(job)

    def remember(self, values: Values) -> Update:
        """What `load` restores beside the widgets."""
        tab = self.tab
        mix = values[self.form.adapters.mix]
        kept = Remembered(values[tab.job], values[tab.own_job], values[tab.picture], mix)
        return {tab.kept: kept.write()}

    def _restored(self, found: Mapping[Any, Any]) -> Update:
        """The page as it was before it was reloaded. found: what stood in its widgets."""
        tab, mix, bases = self.tab, self.form.adapters, base_choices(self.space)
        state = Remembered.read(found.get(tab.kept))
        known = {one: found.get(one, one.value) for one in tab.form_widgets()}
        if known[self.form.base] not in dict(bases).values():
            known[self.form.base] = PLAIN.base
        update: Update = {
            one: shown_on(one, value) if isinstance(one, gr.Slider) else gr.update(value=value)
            for one, value in known.items()
        }
        update[self.form.base] = gr.Dropdown(bases, value=known[self.form.base])
        job, own_job = find_job(self.space, state.job), find_job(self.space, state.own)
        # A browser keeps no painting; that of the picture shown is in its recipe.
        painted = self.form.regions.update(drawing_of(job).shot(0) if job else PLAIN)
        painting = {self.form.regions.canvas: painted[self.form.regions.canvas]}
        values = {**known, **painting, mix.mix: state.mix}
        update |= {tab.own_job: own_job and own_job.id, **painting}
        try:
            update |= self.form.update_mix(mix.read(values), known[self.form.base])
            update |= self.settings.computed(self.form.read(values), values)
        except BadInput as wrong:
            update |= self.settings.refused(values, wrong)
        if job:
            return update | {tab.job: job.id} | self._queued_as(job) | self.view.show(job)
        with suppress(BadInput):  # deleted meanwhile
            update |= self.view.picture(state.picture or "")
        return update

    def _queued_as(self, job: Job) -> Update:
        """The settings that the job shown was queued with, so that they are not drawn again."""
        with suppress(BadInput):  # a part of it is gone
            drawing = drawing_of(job)
            if len(drawing.shots) == 1:
                return {self.tab.queued: (drawing.shot(0), drawing.loading)}
        return {}

    def enter(self, values: Values) -> Update:
        """The tab is opened: show what is new in the library, and draw a first picture.

        The mix is left alone, since adapters sent by another tab may come at the same time.
        """
        if values[self.tab.job_version] is None:  # not loaded yet: see draw_first
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
        return drawn or gr.skip()  # of an empty answer Gradio says that it lacks values

    def _draw_first(self, values: Values) -> Update:
        nothing_shown = values[self.tab.job] is None and values[self.tab.picture] is None
        if nothing_shown and not values[self.page.adapters]:
            with suppress(BadInput):  # the field is named
                return self.drawing.draw_change(values, self.form.read(values))
        return {}

    def _shot_of_job(self, job: Job) -> Shot | None:
        """Its first shot; None where a part of it is gone."""
        with suppress(BadInput):
            shot, missing = shot_of_recipe(self.space, shot_to_dict(drawing_of(job).shot(0)))
            return None if missing else shot
