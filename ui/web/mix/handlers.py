"""What happens on the tab Mix: its handlers, each of which reads the workspace or queues a job."""

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

import compose
from studio.errors import BadInput
from studio.files import file_sha256
from studio.queue.client import Job, get_job, list_jobs, live_preview, stop_job
from studio.requests.shot import Shot, read_recipe
from studio.workspace import (
    Workspace,
    add_upload,
    create_set,
    delete_picture,
    get_adapter,
    get_picture,
    get_set,
    list_pictures,
    undelete,
)
from ui.shared.queue_requests import Drawing, queue_pictures
from ui.web.mix.a1111_parameters import recipe_from_picture
from ui.web.mix.comparison import axes, every_method, grid, suggested
from ui.web.mix.components import (
    Given,
    Parts,
    Update,
    base_choices,
    fill,
    library,
    loading_in,
    mix_of,
    settings_in,
)
from ui.web.mix.html import caption, cell_grid, empty, failed, frame, history, made, note, notice
from ui.web.mix.picker import pick, put_back
from ui.web.mix.schedule_chart import score, untold
from ui.web.mix.settings import (
    BUNDLED_BASES,
    Settings,
    recipe_of,
    recipe_of_queued,
    settings_of,
    shot_of,
)
from ui.web.server.page import Page
from ui.web.server.polling import job_version
from ui.worker.schedule_summary import load_summary, summarize

__all__ = ["Mixing"]

STARTS = "start pictures"  # the set of uploads that keeps what pictures were started from
PAGE = 24  # pictures of the history at first, and more each time
EMPTY = "Press Draw to make a picture."
NO_WEIGHTS = "This method goes by the adapters' weights: who gets which layer is shown once a "
NO_WEIGHTS += "picture is drawn."


class Mixing:
    """The tab's handlers. Nothing is kept here but the workspace and the components."""

    def __init__(self, page: Page, parts: Parts) -> None:
        self.page, self.space, self.parts = page, page.space, parts

    # What is drawn

    def draw(self, given: Given) -> Update:
        """The button: a picture of these settings, of a new seed where none is kept."""
        settings = self._settings(given)
        if not given[self.parts.lock]:
            settings = replace(settings, seed=secrets.randbelow(2**31))
        return self._queue(given, [settings]) | {self.parts.seed: str(settings.seed)}

    def change(self, given: Given) -> Update:
        """After any change: what depends on it, and a picture if one is drawn of every change."""
        settings = self._settings(given)
        update = self._depending(settings, given)
        return update | self._auto(given, settings)

    def change_base(self, given: Given) -> Update:
        """Another base: other adapters fit, and a large one is not drawn on at every change."""
        settings, quick = self._settings(given), given[self.parts.base] in BUNDLED_BASES
        update = mix_of(self.parts, self.space, settings.picked, settings.base)
        update |= {self.parts.auto: quick} | self._depending(settings, given)
        return update | self._auto({**given, self.parts.auto: quick}, settings)

    def example(self, given: Given, event: gr.EventData) -> Update:
        """A prompt to try."""
        settings = replace(self._settings(given), prompt=str(event.name))
        return {self.parts.prompt: settings.prompt} | self._auto(given, settings)

    def stop(self, given: Given) -> Update:
        """End what this page has asked for."""
        if given[self.parts.job] is None:
            return gr.skip()
        with suppress(BadInput):  # it has ended
            stop_job(self.space, given[self.parts.job])
        return {self.parts.note: caption(get_job(self.space, given[self.parts.job]))}

    def compare_methods(self, given: Given) -> Update:
        """The picture under every method."""
        settings = self._settings(given)
        return self._queue(given, every_method(settings, self._check))

    def compare_grid(self, given: Given) -> Update:
        """The picture with every value of one or two things."""
        parts = self.parts
        columns = given[parts.column], given[parts.columns]
        rows = given[parts.row], given[parts.rows]
        return self._queue(given, grid(self._settings(given), columns, rows))

    def suggest(self, given: Given) -> Update:
        """Values for the columns, when something else is to vary there."""
        return {self.parts.columns: suggested(self._settings(given), given[self.parts.column])}

    def suggest_rows(self, given: Given) -> Update:
        """The same for the rows."""
        return {self.parts.rows: suggested(self._settings(given), given[self.parts.row])}

    # What is shown of it

    def look(self, given: Given) -> Update:
        """How the page's job stands; nothing where that is what is shown already.

        An answer about a job that was replaced in the same moment may come last, and is made good
        by the next.
        """
        parts = self.parts
        try:
            job = get_job(self.space, given[parts.job] or 0)
        except BadInput:
            return gr.skip()
        live = live_preview(self.space, job.id) if job.state == "running" else None
        seen = job_version(self.space, job)
        if seen == given[parts.seen]:
            return gr.skip()
        update = self._shown(job, live) | {parts.seen: seen}
        return update | (self._ended(job, given[parts.many]) if job.ended else {})

    def _shown(self, job: Job, live: Path | None) -> Update:
        parts = self.parts
        update: Update = {
            parts.note: caption(job),
            parts.stop: gr.Button(interactive=not job.ended),
        }
        if job.state == "failed":
            update[parts.frame] = failed(job.error, job.advice)
        elif len(_shots(job)) > 1:
            update[parts.frame] = cell_grid(self.space, job, _forming(live))
        elif job.results:
            with suppress(BadInput):  # deleted, and shown as it was
                update |= self._picture(job.results[0])
        elif picture := _forming(live):
            update[parts.frame] = picture
        return update

    def _ended(self, job: Job, many: int) -> Update:
        """What is new when a job is over: the history, and a schedule that only weights tell."""
        update = self._history(many)
        if job.state == "done" and len(_shots(job)) == 1:
            shot = Drawing(**job.arguments).shot(0)  # pyright: ignore[reportArgumentType]
            update |= {self.parts.score: self._score(shot)}
        return update

    def _picture(self, id: str) -> Update:
        """One finished picture."""
        path = get_picture(self.space, id).path
        return {
            self.parts.frame: frame(path, alt=path.stem.partition("-")[2]),
            self.parts.opened: id,
            self.parts.delete: gr.Button(interactive=True),
        }

    def _history(self, many: int) -> Update:
        found = list_pictures(self.space, limit=many + 1)
        shown = history(self.space, found[:many], more=len(found) > many)
        return {self.parts.history: shown}

    # The page as a whole

    def load(self) -> Update:
        """The page as it was left: the last picture that was asked for, perhaps still forming."""
        job = next(iter(list_jobs(self.space, kinds=("render",), limit=1)), None)
        settings, known = Settings(), False
        if job is not None:
            found, amiss = settings_of(self.space, recipe_of_queued(_shots(job)[0]))
            known = not amiss
            settings = found if known else settings
        update = fill(self.parts, self.space, settings) | self._history(PAGE)
        update |= self._depending(settings, {})
        update |= {self.parts.auto: settings.base in BUNDLED_BASES, self.parts.seen: ""}
        if job is None or not known:
            return update
        update |= {
            self.parts.job: job.id,
            self.parts.asked: (shot_of(self.space, settings), job.arguments["loading"]),
        }
        return update | self._shown(job, None)

    def enter(self, given: Given) -> Update:
        """The tab is opened: what others have made meanwhile, and a first picture.

        The mix stays as it is: adapters that the other tab has sent may come at the same time.
        """
        if given[self.parts.seen] is None:
            return {self.parts.open: True}
        settings = self._settings(given)
        update: Update = {self.parts.cards: library(self.space, settings.base)}
        update |= self._history(given[self.parts.many])
        update[self.parts.base] = gr.Dropdown(base_choices(self.space))
        return update | self._first(given, settings)

    def begin(self, given: Given) -> Update:
        """The page is loaded: a first picture, if the tab was opened before."""
        return self._first(given, self._settings(given)) if given[self.parts.open] else gr.skip()

    def _first(self, given: Given, settings: Settings) -> Update:
        nothing_yet = given[self.parts.job] is None and given[self.parts.opened] is None
        nothing_yet = nothing_yet and not given[self.page.adapters]
        return {self.parts.open: True} | (self._auto(given, settings) if nothing_yet else {})

    def add(self, given: Given, event: gr.EventData) -> Update:
        """An adapter of the library comes into the mix, its trigger into the prompt."""
        return self._add(given, [str(event.name)])

    def add_sent(self, given: Given) -> Update:
        """Adapters that another tab sends; those in the mix already stay as they are."""
        there = {one.name for one in given[self.parts.picked]}
        names = [name for name in given[self.page.adapters] if name not in there]
        update = self._add(given, names) if names else {}
        return update | {self.page.adapters: []}

    def _add(self, given: Given, names: Sequence[str]) -> Update:
        settings = self._settings(given)
        for name in names:
            picked, prompt = pick(settings.picked, settings.prompt, get_adapter(self.space, name))
            settings = replace(settings, picked=picked, prompt=prompt)
        return self._mixed(given, settings)

    def remove(self, given: Given, place: int) -> Update:
        """An adapter leaves the mix, and its trigger the prompt."""
        settings = self._settings(given)
        if place >= len(settings.picked):  # pressed twice
            return gr.skip()
        picked, prompt = put_back(settings.picked, settings.prompt, place)
        return self._mixed(given, replace(settings, picked=picked, prompt=prompt))

    def _mixed(self, given: Given, settings: Settings) -> Update:
        update = mix_of(self.parts, self.space, settings.picked, settings.base)
        update |= {self.parts.prompt: settings.prompt} | self._depending(settings, given)
        return update | self._auto(given, settings)

    # Settings from elsewhere

    def reopen(self, given: Given, event: gr.EventData) -> Update:
        """A picture of the history with its settings; or more of the history."""
        if event.name == "more":
            many = given[self.parts.many] + PAGE
            return {self.parts.many: many} | self._history(many)
        path = get_picture(self.space, str(event.name)).path
        recipe = read_recipe(path)
        update = self._open(given, recipe, draw=False) | self._picture(str(event.name))
        return update | {self.parts.note: made(recipe, path)}

    def open_file(self, given: Given) -> Update:
        """A PNG from anywhere: its settings."""
        parts = self.parts
        if not (path := given[parts.dropped]):
            return gr.skip()
        recipe, amiss = recipe_from_picture(path)
        return self._open(given, recipe, draw=True, amiss=amiss) | {parts.dropped: None}

    def _open(
        self,
        given: Given,
        recipe: Mapping[str, object],
        *,
        draw: bool,
        amiss: Sequence[str] = (),
    ) -> Update:
        parts = self.parts
        settings, absent = settings_of(self.space, recipe)
        said = [*amiss, *absent]
        update = fill(parts, self.space, settings) | self._depending(settings, given)
        update[parts.notice] = gr.HTML(notice(said), visible=bool(said))
        auto = settings.base in BUNDLED_BASES and bool(given[parts.auto])
        update |= {parts.auto: auto, parts.lock: True}
        if draw and auto and not said:
            return update | self._auto({**given, parts.auto: auto}, settings)
        # Nothing forms now: what is shown is that picture, or none.
        self._let_go(given)
        asked = None if said else (shot_of(self.space, settings), loading_in(parts, given))
        update |= {parts.job: None, parts.asked: asked, parts.stop: _off()}
        return update | ({parts.frame: empty(EMPTY), parts.opened: None} if draw else {})

    def send(self, given: Given) -> Update:
        """These settings to Batch."""
        recipe = recipe_of(self.space, self._settings(given))
        return {self.page.shot: recipe, self.page.tabs: gr.Tabs(selected="batch")}

    def delete(self, given: Given) -> Update:
        """The picture shown goes to the trash."""
        parts = self.parts
        if not given[parts.opened]:
            return gr.skip()
        deleted = delete_picture(self.space, given[parts.opened])
        return {
            parts.deleted: (deleted, given[parts.opened]),
            parts.opened: None,
            parts.delete: _off(),
            parts.undo: gr.Button(visible=True),
            parts.frame: empty("Deleted."),
            parts.note: note(""),
        } | self._history(given[parts.many])

    def undo(self, given: Given) -> Update:
        """It comes back."""
        parts = self.parts
        if not given[parts.deleted]:
            return gr.skip()
        path = undelete(self.space, given[parts.deleted][0])
        update = self._picture(f"{path.parent.name}/{path.name}")
        update |= {parts.deleted: None, parts.undo: gr.Button(visible=False)}
        return update | self._history(given[parts.many])

    # What they share

    def _settings(self, given: Given) -> Settings:
        settings = settings_in(self.parts, given)
        return replace(settings, start=_kept_start(self.space, settings.start))

    def _check(self, settings: Settings) -> None:
        with suppress(compose.NeedsWeights):
            compose.outline(shot_of(self.space, settings))

    def _depending(self, settings: Settings, given: Given) -> Update:
        """What is shown by the settings alone."""
        parts, found = self.parts, axes(settings)
        names = {axis for _, axis in found}
        update: Update = {parts.score: self._score(shot_of(self.space, settings))}
        for name, group in parts.groups.items():
            update[group] = gr.Group(visible=name == settings.method)
        for axis, usual in ((parts.column, "method"), (parts.row, "nothing")):
            now = given.get(axis)
            update[axis] = gr.update(choices=found, value=now if now in names else usual)
        if not given:
            update[parts.columns] = suggested(settings, "method")
        return update

    def _score(self, shot: Shot) -> str:
        """The schedule of a shot, or why there is none."""
        steps = shot.steps if shot.init_image is None else int(shot.steps * shot.denoise)
        try:
            return score(summarize(compose.outline(shot)))
        except compose.NeedsWeights:
            kept = load_summary(self.space, shot)
            return score(kept) if kept else untold(steps, NO_WEIGHTS)
        except BadInput as error:
            return untold(steps, str(error))

    def _auto(self, given: Given, settings: Settings) -> Update:
        """A picture of a change where that is wished for, unless a comparison is being drawn."""
        parts = self.parts
        asked = (shot_of(self.space, settings), loading_in(parts, given))
        if not given[parts.auto] or asked == given[parts.asked] or self._comparing(given):
            return {}
        return self._queue(given, [settings])

    def _queue(self, given: Given, wanted: Sequence[Settings]) -> Update:
        """Ask for pictures, in the place of what this page asked for before."""
        parts = self.parts
        shots = [shot_of(self.space, settings) for settings in wanted]
        loading = loading_in(parts, given)
        self._let_go(given)
        if said := self._refused(wanted):
            none = {parts.job: None, parts.asked: None, parts.stop: _off()}
            return none | {parts.frame: failed(said), parts.note: note("Not drawn")}
        job = queue_pictures(self.space, shots, loading=loading)
        return {
            parts.job: job.id,
            parts.own: job.id,
            parts.opened: None,
            parts.delete: _off(),
            parts.seen: "",
            parts.asked: (shots[0], loading) if len(shots) == 1 else None,
            parts.note: caption(job),
            parts.notice: gr.HTML(visible=False),
            parts.stop: gr.Button(interactive=True),
        }

    def _let_go(self, given: Given) -> None:
        """Stop what this page has asked for; what it found when it was loaded is another's."""
        if given[self.parts.own] is not None:
            with suppress(BadInput):  # it has ended
                stop_job(self.space, given[self.parts.own])

    def _refused(self, wanted: Sequence[Settings]) -> str:
        """Why the first of these that cannot be drawn cannot be, as far as headers tell."""
        try:
            for settings in wanted:
                self._check(settings)
        except BadInput as error:
            return str(error)
        return ""

    def _comparing(self, given: Given) -> bool:
        if given[self.parts.job] is None:
            return False
        job = get_job(self.space, given[self.parts.job])
        return not job.ended and len(_shots(job)) > 1


def _shots(job: Job) -> list[Mapping[str, Any]]:
    shots = job.arguments["shots"]
    assert isinstance(shots, list)
    return [shot for shot in shots if isinstance(shot, dict)]


def _forming(live: Path | None) -> str:
    """Its frame; "" where there is none, or none by now."""
    try:
        return frame(live, alt="The picture, forming", forming=True) if live else ""
    except FileNotFoundError:
        return ""


def _off() -> gr.Button:
    return gr.Button(interactive=False)


def _kept_start(space: Workspace, path: str | None) -> str | None:
    """A picture to start from, where it stays: what was dropped in is gone by tomorrow."""
    if not path or Path(path).resolve().is_relative_to(space.uploads):
        return path or None
    stem = file_sha256(path)[:16]
    try:
        kept = get_set(space, STARTS)
    except BadInput:
        kept = create_set(space, STARTS)
    for one in kept.pictures:
        if Path(one.name).stem == stem:
            return str(one.path)
    return str(add_upload(space, kept.name, path, name=f"{stem}.png").path)
