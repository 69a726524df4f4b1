"""Draw the settings of Mix, or a comparison of them: each queues a job."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import gradio as gr

import compose
from studio.errors import BadInput
from studio.queue.client import stop_job
from studio.queue.job import Job
from studio.requests.shot import Shot, any_seed
from studio.workspace import Workspace, get_picture
from ui.shared.queue_requests import drawing_of, draws, find_job, queue_pictures
from ui.web.mix import html
from ui.web.mix.comparison import axes, every_method, grid
from ui.web.mix.tab import MixTab
from ui.web.server.page import Update, Values

DRAWN = "This one is drawn already. Change a setting, or unlock the seed for another."


class Drawing:
    """Queues pictures. Each job replaces the last job that the same page queued."""

    def __init__(self, space: Workspace, tab: MixTab) -> None:
        self.space, self.tab, self.form = space, tab, tab.form

    def draw(self, values: Values) -> Update:
        """Draw these settings, with a new seed unless it is locked."""
        shot = self.form.read(values)
        if not values[self.form.lock]:
            shot = replace(shot, seed=any_seed())
        return self._queue(values, [shot]) | {self.form.seed: str(shot.seed)}

    def stop(self, values: Values) -> None:
        """Stop the job shown. The next poll shows it: an answer from here might come too late."""
        if values[self.tab.job] is not None:
            with suppress(BadInput):  # it has ended
                stop_job(self.space, values[self.tab.job])

    def compare_methods(self, values: Values) -> Update:
        """Draw the picture with every method that takes these adapters."""
        return self._queue(values, every_method(self.form.read(values), _check)) or gr.skip()

    def compare_grid(self, values: Values) -> Update:
        """Draw the picture with every value of one or two axes."""
        tab = self.tab
        columns = values[tab.column], values[tab.columns]
        rows = values[tab.row], values[tab.rows]
        return self._queue(values, grid(self.form.read(values), columns, rows)) or gr.skip()

    def suggest_columns(self, values: Values) -> Update:
        """Suggest values for the columns when another setting is to vary."""
        return {self.tab.columns: self._suggestion(values, self.tab.column)}

    def suggest_rows(self, values: Values) -> Update:
        """Suggest values for the rows when another setting is to vary."""
        return {self.tab.rows: self._suggestion(values, self.tab.row)}

    def _suggestion(self, values: Values, axis: gr.Dropdown) -> str:
        suggestions = {each.name: each.suggestion for each in axes(self.form.read(values))}
        return suggestions.get(values[axis], "")

    def draw_change(self, values: Values, shot: Shot) -> Update:
        """Draw changed settings if "Draw every change" is on and no comparison is being drawn."""
        tab = self.tab
        unchanged = (shot, self.form.loading.read(values)) == values[tab.queued]
        if not values[tab.auto] or unchanged or self._is_comparing(values):
            return {}
        return self._queue(values, [shot])

    def _queue(self, values: Values, shots: Sequence[Shot]) -> Update:
        """Queue these shots, and stop the last job that this page queued.

        If the job shown draws or has drawn the same shots, nothing is queued.
        """
        tab, loading = self.tab, self.form.loading.read(values)
        if same := self._job_drawing(values, shots, loading):
            return {tab.note: html.note(DRAWN)} if same.ended else {}
        self.stop_own_job(values)
        try:
            for shot in shots:
                _check(shot)
        except BadInput as error:
            return {
                tab.job: None,
                tab.queued: None,
                tab.stop: gr.Button(interactive=False),
                tab.frame: html.failed(str(error)),
                tab.note: html.note("Not drawn"),
            }
        job = queue_pictures(self.space, shots, loading=loading)
        return {
            tab.job: job.id,
            tab.own_job: job.id,
            tab.job_version: "",
            tab.queued: (shots[0], loading) if len(shots) == 1 else None,
            tab.picture: None,
            tab.delete: gr.Button(interactive=False),
            tab.note: html.job_note(job),
            tab.notice: gr.HTML(visible=False),
            tab.stop: gr.Button(interactive=True),
        }

    def _job_drawing(
        self, values: Values, shots: Sequence[Shot], loading: Mapping[str, object]
    ) -> Job | None:
        """The job shown, if it draws or has drawn these shots and no picture of it was deleted."""
        job = find_job(self.space, values[self.tab.job])
        if job is None or job.state in ("failed", "stopped") or job.stopping:
            return None
        with suppress(BadInput):  # a shot or a picture is gone: draw the shots again
            if len(job.finished_results) < len(shots) * job.ended:
                return None
            for id in job.finished_results:
                get_picture(self.space, id)
            return job if draws(job, shots, loading) else None
        return None

    def stop_own_job(self, values: Values) -> None:
        """Stop the last job that this page queued; jobs of other pages go on."""
        if values[self.tab.own_job] is not None:
            with suppress(BadInput):  # it has ended
                stop_job(self.space, values[self.tab.own_job])

    def _is_comparing(self, values: Values) -> bool:
        job = find_job(self.space, values[self.tab.job])
        return job is not None and not job.ended and len(drawing_of(job).shots) > 1


def _check(shot: Shot) -> None:
    """Raise BadInput for a shot that can't be drawn, as far as the adapters' headers show."""
    with suppress(compose.NeedsWeights):
        compose.outline(shot)
