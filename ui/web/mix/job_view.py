"""The part of the tab Mix that shows a job, a finished picture and the history."""

from contextlib import suppress

import gradio as gr

import compose
from studio.errors import BadInput
from studio.queue.client import live_preview
from studio.queue.job import Job
from studio.requests.picture_file import read_recipe
from studio.requests.shot import Shot
from studio.workspace import Workspace, get_picture
from ui.shared.queue_requests import drawing_of, find_job
from ui.shared.tiles import tiles_note
from ui.web.frontend import MARKED, UNMARKED, sentence
from ui.web.mix import html
from ui.web.mix.comparison import table
from ui.web.mix.history import Listing, favourites, find_pictures
from ui.web.mix.schedule_chart import chart, no_chart
from ui.web.mix.tab import MixTab
from ui.web.server.page import Update, Values
from ui.web.server.polling import job_version
from ui.worker.schedule_summary import load_summary, summarize

NEEDS_WEIGHTS = (
    "This method compares the adapters' weights: which adapter changes which layer is shown once "
    "a picture is drawn."
)


class JobView:
    """Writes jobs and pictures into the components of the tab."""

    def __init__(self, space: Workspace, tab: MixTab) -> None:
        self.space, self.tab = space, tab

    def poll(self, values: Values) -> Update:
        """Show the job's progress if it has changed.

        The answer may be about a job that another one replaces at this moment. The next poll then
        corrects it.
        """
        tab = self.tab
        job = find_job(self.space, values[tab.job])
        if job is None:
            return gr.skip()
        version = job_version(self.space, job)
        if version == values[tab.job_version]:
            return gr.skip()
        update = self.show(job) | {tab.job_version: version}
        return update | (self._show_ended(job, values[tab.listing]) if job.ended else {})

    def show(self, job: Job) -> Update:
        """Show a job as it is now, with a preview of the unfinished picture."""
        tab, preview = self.tab, self._preview(job)
        update: Update = {
            tab.note: html.job_note(job),
            tab.stop: gr.Button(interactive=not job.ended),
        }
        if job.state == "failed":
            update[tab.frame] = html.failed(job.error, job.advice)
        elif len(drawing_of(job).shots) > 1:
            update[tab.frame] = html.comparison(
                self.space, table(drawing_of(job).all_shots()), job.results, preview
            )
        elif job.results:
            with suppress(BadInput):  # deleted meanwhile
                update |= self.picture(job.results[0])
                tiled = tiles_note(read_recipe(get_picture(self.space, job.results[0]).path))
                update[tab.note] = html.job_note(job, more=tiled)
        elif preview:
            update[tab.frame] = preview
        return update

    def picture(self, id: str) -> Update:
        """Show a finished picture. Raises BadInput where it was deleted."""
        path = get_picture(self.space, id).path
        return {
            self.tab.frame: html.frame(path, alt=path.stem.partition("-")[2]),
            self.tab.picture: id,
            self.tab.delete: gr.Button(interactive=True),
            self.tab.star: self.star(id in favourites(self.space)),
        }

    def star(self, marked: bool) -> gr.Button:
        """The button that marks the picture shown as a favourite. marked: whether it is one."""
        return gr.Button(MARKED if marked else UNMARKED, interactive=True)

    def history(self, listing: Listing) -> Update:
        """Show the pictures of a listing, and the button that deletes the picked ones."""
        pictures, more = find_pictures(self.space, listing)
        history = html.history(
            self.space,
            pictures,
            more,
            listing.picked or frozenset(),
            searched=bool(listing.words or listing.favourites),
        )
        many = len(listing.picked or ())
        delete = gr.Button(f"Delete {many}", visible=bool(many))
        return {self.tab.history: history, self.tab.delete_picked: delete}

    def schedule(self, shot: Shot) -> str:
        """The schedule of a shot as HTML, or why it can't be drawn."""
        try:
            return chart(summarize(compose.outline(shot)))
        except compose.NeedsWeights:
            summary = load_summary(self.space, shot)
            return chart(summary) if summary else no_chart(shot, NEEDS_WEIGHTS)
        except BadInput as error:
            return no_chart(shot, sentence(str(error)))

    def _preview(self, job: Job) -> str:
        """The frame with the preview of the unfinished picture; "" where there is none."""
        live = live_preview(self.space, job.id) if job.state == "running" else None
        try:
            return html.frame(live, alt="The picture, forming", forming=True) if live else ""
        except FileNotFoundError:
            return ""

    def _show_ended(self, job: Job, listing: Listing) -> Update:
        """Show the new history, and the schedule, which the worker may have had to compute."""
        update = self.history(listing)
        if job.state == "done" and len(drawing_of(job).shots) == 1:
            update[self.tab.schedule] = self.schedule(drawing_of(job).shot(0))
        return update
