"""The event handlers of the tab Mix. Each handler reads the workspace or queues a job.

A handler is given the values of the components, and answers with those that change.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import gradio as gr

import compose
from studio.bases.names import BUNDLED_BASES
from studio.errors import BadInput
from studio.queue.client import get_job, list_jobs, stop_job
from studio.queue.job import Job
from studio.requests.adapter_tags import read_adapter_tag
from studio.requests.picture_file import read_recipe
from studio.requests.prompt_syntax import split_adapter_tags
from studio.requests.shot import Shot
from studio.requests.shot_recipe import shot_to_dict
from studio.requests.speed import negative_note, speed_fields
from studio.workspace import (
    adapter_path,
    delete_picture,
    get_adapter,
    get_picture,
    undelete,
    write_label,
)
from ui.shared.clip_skip import clip_skip_hint
from ui.shared.queue_requests import drawing_of, draws, queue_pictures
from ui.web.frontend import paragraph, sentence
from ui.web.mix import html
from ui.web.mix.comparison import NOTHING, axes, every_method, grid
from ui.web.mix.history import HISTORY_PAGE, Listing, favourites, picture_place
from ui.web.mix.job_view import JobView
from ui.web.mix.mix_adapters import WHOLE, MixAdapter, add_to_mix, remove_from_mix, with_tagged
from ui.web.mix.recipes import recipe_of_picture, shot_of_recipe
from ui.web.mix.remembered import Remembered
from ui.web.mix.shot_form import PLAIN, base_choices, keep_painted, steps_for
from ui.web.mix.tab import NO_PICTURE, MixTab
from ui.web.server.page import Page, Update, Values

OLD_SYNTAX = (
    "An older Studio drew this picture. It knew no weights and cut long prompts, so the prompt is "
    'read that way again. Choose a1111 under "How prompts are read" to change that.'
)
DRAWN = "This one is drawn already. Change a setting, or unlock the seed for another."


class Handlers:
    """They keep nothing: what there is to know is in the workspace and in the components."""

    def __init__(self, page: Page, tab: MixTab) -> None:
        self.page, self.space, self.tab, self.form = page, page.space, tab, tab.form
        self.view = JobView(page.space, tab)

    # Settings

    def change(self, values: Values) -> Update:
        """Any setting was changed."""
        return self._changed(values)

    def change_base(self, values: Values) -> Update:
        """Other adapters fit the new base. A base of the user's is not drawn at every change."""
        base = values[self.form.base]
        update: Update = {
            self.tab.auto: base in BUNDLED_BASES,
            self.form.steps: steps_for(base, values[self.form.steps]),
        }
        changed = self._changed({**values, **update})
        return update | self.form.update_mix(self.form.adapters.read(values), base) | changed

    def use_example(self, values: Values, event: gr.EventData) -> Update:
        """An example becomes the prompt."""
        shown: Update = {self.form.prompt: str(event.name)}
        return shown | self._changed({**values, **shown})

    def add(self, values: Values, event: gr.EventData) -> Update:
        """An adapter of the library joins the mix, and its trigger the prompt."""
        return self._add(values, [str(event.name)])

    def add_sent(self, values: Values) -> Update:
        """Adapters sent by another tab join the mix, unless they are in it already."""
        known = {one.name for one in values[self.form.adapters.mix]}
        names = [name for name in values[self.page.adapters] if name not in known]
        update = self._add(values, names) if names else {}
        return update | {self.page.adapters: []}

    def remove(self, values: Values, place: int) -> Update:
        """An adapter leaves the mix, and its trigger the prompt."""
        mix, prompt = self.form.adapters.read(values), values[self.form.prompt] or ""
        if place >= len(mix):  # the button was pressed twice
            return gr.skip()
        return self._mixed(values, *remove_from_mix(mix, prompt, place))

    def _add(self, values: Values, names: Sequence[str]) -> Update:
        mix, prompt = self.form.adapters.read(values), values[self.form.prompt] or ""
        added = [get_adapter(self.space, name) for name in names]
        for one in added:
            mix, prompt = add_to_mix(mix, prompt, one)
        return self._joined(values, mix, prompt, [(one.path, 1.0) for one in added])

    def take_tags(self, values: Values) -> Update:
        """Adapters that the prompt names, as in <lora:NAME:0.8>, become adapters of the mix."""
        prompt, tags = split_adapter_tags(values[self.form.prompt] or "")
        if not tags or values[self.form.reading["syntax"]] != "a1111":
            return gr.skip()
        mix, files = self.form.adapters.read(values), []
        for name, strength in map(read_adapter_tag, tags):
            files.append((adapter_path(self.space, name), strength))
            plain, _, half = name.partition(":")
            mix = with_tagged(mix, MixAdapter(plain, strength, half or WHOLE))
        return self._joined(values, mix, prompt, files)

    def _joined(
        self,
        values: Values,
        mix: Sequence[MixAdapter],
        prompt: str,
        files: Sequence[tuple[object, float]],
    ) -> Update:
        """Some adapters have joined the mix: a speed adapter among them sets what it needs."""
        faster, said = speed_fields(files, ())
        if not said:
            return self._mixed(values, mix, prompt)
        widgets = self.form.sampling_widgets()
        before = {name: values[widget] for name, widget in widgets.items()}
        update = {widgets[name]: value or "" for name, value in faster.items()}
        mixed = self._mixed({**values, **update}, mix, prompt)
        undo = {self.form.before_speed: before, self.form.undo_speed: gr.Button(visible=True)}
        return mixed | update | undo | {self.form.sampling_note: paragraph(said)}

    def use_clip_skip(self, values: Values) -> Update:
        """Prompts are read with the clip skip that an adapter of the mix was trained with."""
        shot = self.form.read(values)
        wanted = clip_skip_hint(shot, self.form.family(shot.base))[1]
        if wanted is None:  # the button was pressed twice
            return gr.skip()
        shown: Update = {self.form.reading["clip_skip"]: str(wanted)}
        return shown | self._changed({**values, **shown})

    def show_in_editor(self, values: Values) -> Update:
        """The picture to start from can be painted over."""
        picture = values[self.form.start]
        shown = {"background": picture, "layers": [], "composite": picture} if picture else None
        return {self.form.paint: shown}

    def take_painted(self, values: Values) -> Update:
        """What was painted is the mask."""
        mask = keep_painted(self.space, values[self.form.paint])
        shown: Update = {self.form.mask: mask}
        return shown | self._changed({**values, **shown})

    def undo_speed(self, values: Values) -> Update:
        """Sampler, spacing, steps and CFG are again what a speed adapter found."""
        before = values[self.form.before_speed]
        if before is None:  # the button was pressed twice
            return gr.skip()
        widgets = self.form.sampling_widgets()
        update: Update = {widgets[name]: value for name, value in before.items()}
        changed = {**values, **update}
        shown = {self.form.before_speed: None, self.form.undo_speed: gr.Button(visible=False)}
        return update | shown | self._changed(changed)

    def _mixed(self, values: Values, mix: Sequence[MixAdapter], prompt: str) -> Update:
        """Another mix and another prompt."""
        base, said = values[self.form.base], {self.form.prompt: prompt}
        return self.form.update_mix(mix, base) | said | self._changed({**values, **said}, mix)

    def _changed(self, values: Values, mix: Sequence[MixAdapter] | None = None) -> Update:
        """Other settings. mix: the adapters, where they are not those of the page."""
        try:
            shot = self.form.read(values, mix)
        except BadInput as wrong:
            return self._refused(values, wrong)
        return self._computed(shot, values) | self._draw_change(values, shot)

    def _refused(self, values: Values, wrong: BadInput) -> Update:
        """Name the field that no picture can be made with; the buttons wait until it is right."""
        shown = gr.HTML(paragraph(sentence(str(wrong)), "problem"), visible=True)
        return {self.tab.problem: shown} | self._buttons(ready=False) | self._method_options(values)

    def _buttons(self, *, ready: bool) -> Update:
        """The buttons that draw."""
        return {one: gr.Button(interactive=ready) for one in self.tab.drawing_buttons()}

    def _method_options(self, values: Values) -> Update:
        groups = [*self.form.groups.items(), ("regions", self.form.regions.group)]
        chosen = values[self.form.method]
        return {group: gr.Group(visible=name == chosen) for name, group in groups}

    def _computed(self, shot: Shot, values: Values) -> Update:
        """Update what the settings decide: the method's options, the schedule, the axes."""
        tab, found = self.tab, axes(shot)
        choices = [(NOTHING.capitalize(), NOTHING), *((axis.label, axis.name) for axis in found)]
        names = [name for _, name in choices]
        update: Update = {tab.schedule: self.view.schedule(shot)}
        update |= {self.form.sampling_note: paragraph(negative_note(shot))}
        update |= {tab.problem: gr.HTML(visible=False)} | self._buttons(ready=True)
        update |= self._method_options(values)
        hint, wanted = clip_skip_hint(shot, self.form.family(shot.base))
        update[self.form.clip_note] = paragraph(hint)
        update[self.form.use_clip_skip] = gr.Button(
            f"Use clip skip {wanted}", visible=wanted is not None
        )
        for axis, usual in ((tab.column, "method"), (tab.row, NOTHING)):
            chosen = values[axis] if values[axis] in names else usual
            update[axis] = gr.update(choices=choices, value=chosen)
        return update

    # Drawing

    def draw(self, values: Values) -> Update:
        """Draw these settings, with a new seed unless it is locked."""
        shot = self.form.read(values)
        if not values[self.form.lock]:
            shot = replace(shot, seed=secrets.randbelow(2**31))
        return self._queue(values, [shot]) | {self.form.seed: str(shot.seed)}

    def stop(self, values: Values) -> None:
        """Stop the job shown. The next poll says so: here it might be said after it has stopped."""
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
        """Values to begin with, when something else is to vary."""
        return {self.tab.columns: self._suggestion(values, self.tab.column)}

    def suggest_rows(self, values: Values) -> Update:
        """The same for the rows."""
        return {self.tab.rows: self._suggestion(values, self.tab.row)}

    def _suggestion(self, values: Values, axis: gr.Dropdown) -> str:
        found = {one.name: one.suggestion for one in axes(self.form.read(values))}
        return found.get(values[axis], "")

    def _draw_change(self, values: Values, shot: Shot) -> Update:
        """Draw a change where that is wanted, unless a comparison is being drawn."""
        tab = self.tab
        unchanged = (shot, self.form.read_loading(values)) == values[tab.queued]
        if not values[tab.auto] or unchanged or self._is_comparing(values):
            return {}
        return self._queue(values, [shot])

    def _queue(self, values: Values, shots: Sequence[Shot]) -> Update:
        """Queue these shots instead of what this page has queued before.

        What the job shown draws, or has drawn, is not drawn again.
        """
        tab, loading = self.tab, self.form.read_loading(values)
        if same := self._job_drawing(values, shots, loading):
            return {tab.note: html.note(DRAWN)} if same.ended else {}
        self._stop_own_job(values)
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
        """The job shown where it draws these shots or has drawn them, none of them deleted."""
        with suppress(BadInput):  # there is no job, or a shot or a picture is gone
            job = get_job(self.space, values[self.tab.job] or 0)
            if job.state in ("failed", "stopped") or job.stopping:
                return None
            if len(job.finished_results) < len(shots) * job.ended:
                return None
            for id in job.finished_results:
                get_picture(self.space, id)
            return job if draws(job, shots, loading) else None
        return None

    def _stop_own_job(self, values: Values) -> None:
        """Stop what this page has queued, and nothing of another page."""
        if values[self.tab.own_job] is not None:
            with suppress(BadInput):  # it has ended
                stop_job(self.space, values[self.tab.own_job])

    def _is_comparing(self, values: Values) -> bool:
        if values[self.tab.job] is None:
            return False
        job = get_job(self.space, values[self.tab.job])
        return not job.ended and len(drawing_of(job).shots) > 1

    # The page

    def poll(self, values: Values) -> Update:
        """The job shown has got further, or something else in the workspace has changed."""
        return self.view.poll(values)

    def load(self, values: Values) -> Update:
        """The page is loaded: it shows what it showed before, or the last picture asked for."""
        tab = self.tab
        update = {tab.job_version: "", tab.columns: axes(PLAIN)[0].suggestion}
        update |= self.view.history(Listing())
        if found := tab.form_kept.read(values[tab.form_kept.stored]):
            return update | self._restored(found)
        job = next(iter(list_jobs(self.space, kinds=("render",), limit=1)), None)
        shot = self._shot_of_job(job) if job else None
        update |= self._filled(shot or PLAIN, {})
        if job is None or shot is None:
            return update
        return update | {tab.job: job.id} | self._queued_as(job) | self.view.show(job)

    def remember(self, values: Values) -> Update:
        """What `load` restores beside the widgets."""
        tab = self.tab
        state = {"job": values[tab.job], "own": values[tab.own_job], "picture": values[tab.picture]}
        mix = [asdict(one) for one in values[self.form.adapters.mix]]
        return {tab.kept: json.dumps({**state, "mix": mix})}

    def _restored(self, found: Mapping[Any, Any]) -> Update:
        """The page as it was before it was reloaded. found: what stood in its widgets."""
        tab, mix, bases = self.tab, self.form.adapters, base_choices(self.space)
        state = Remembered.read(found.get(tab.kept))
        known = {one: found.get(one, one.value) for one in tab.form_widgets()}
        if known[self.form.base] not in dict(bases).values():
            known[self.form.base] = PLAIN.base
        update: Update = {one: gr.update(value=value) for one, value in known.items()}
        for slider in (self.form.steps, self.form.guidance):
            most = max(slider.maximum, known[slider] or 0)
            update[slider] = gr.update(value=known[slider], maximum=most)
        update[self.form.base] = gr.Dropdown(bases, value=known[self.form.base])
        job, own_job = self._job(state.job), self._job(state.own)
        # A browser keeps no painting; that of the picture shown is in its recipe.
        painted = self.form.regions.update(drawing_of(job).shot(0) if job else PLAIN)
        painting = {self.form.regions.canvas: painted[self.form.regions.canvas]}
        values = {**known, **painting, mix.mix: state.mix}
        update |= {tab.own_job: own_job and own_job.id, **painting}
        try:
            update |= self.form.update_mix(mix.read(values), known[self.form.base])
            update |= self._computed(self.form.read(values), values)
        except BadInput as wrong:
            update |= self._refused(values, wrong)
        if job:
            return update | {tab.job: job.id} | self._queued_as(job) | self.view.show(job)
        with suppress(BadInput):  # deleted meanwhile
            update |= self.view.picture(state.picture)
        return update

    def _job(self, id: int) -> Job | None:
        with suppress(BadInput):
            return get_job(self.space, id)
        return None

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
                return self._draw_change(values, self.form.read(values))
        return {}

    def _shot_of_job(self, job: Job) -> Shot | None:
        """Its first shot; None where a part of it is gone."""
        with suppress(BadInput):
            shot, missing = shot_of_recipe(self.space, shot_to_dict(drawing_of(job).shot(0)))
            return None if missing else shot

    def _filled(self, shot: Shot, values: Values) -> Update:
        """All settings are those of this shot."""
        update = self.form.update(shot)
        settings = {self.tab.column: "", self.tab.row: "", **values}
        settings |= {self.form.method: update[self.form.method]}
        return update | self._computed(shot, settings) | {self.tab.auto: shot.base in BUNDLED_BASES}

    # The history

    def list_history(self, values: Values) -> Update:
        """Other pictures are searched for, or several are to be picked."""
        tab = self.tab
        picked = frozenset() if values[tab.several] else None
        words, only = values[tab.search] or "", bool(values[tab.favourites])
        listing = Listing(words=words, favourites=only, picked=picked)
        return {tab.listing: listing} | self.view.history(listing)

    def click_history(self, values: Values, event: gr.EventData) -> Update:
        """A picture is picked where several are; or it is opened; or there is more to show."""
        tab, id = self.tab, str(event.name)
        listing = values[tab.listing]
        if id == "more":
            listing = replace(listing, length=listing.length + HISTORY_PAGE)
        elif listing.picked is not None:
            listing = replace(listing, picked=listing.picked ^ {id})
        else:
            return self.reopen(values, event)
        return {tab.listing: listing} | self.view.history(listing)

    def mark(self, values: Values) -> Update:
        """The picture shown is a favourite from now on, or no longer."""
        if not (id := values[self.tab.picture]):
            return gr.skip()
        marked = id not in favourites(self.space)
        write_label(self.space, picture_place(id), favourite=marked)
        return {self.tab.star: self.view.star(marked)} | self.view.history(values[self.tab.listing])

    def reopen(self, values: Values, event: gr.EventData) -> Update:
        """A picture is shown with its settings."""
        path = get_picture(self.space, str(event.name)).path
        recipe = read_recipe(path)
        shot, problems = shot_of_recipe(self.space, recipe)
        update = self._open(values, shot, problems) | self._drop_job(values, shot, problems)
        update |= self.view.picture(str(event.name))
        return update | {self.tab.note: html.recipe_note(recipe, path)}

    def open_picture(self, values: Values, event: gr.EventData) -> Update:
        """The same for a picture of another tab, which gives way to this one."""
        return self.reopen(values, event) | {self.page.tabs: gr.Tabs(selected="mix")}

    def open_file(self, values: Values) -> Update:
        """The settings of a PNG are taken over, and drawn if nothing of them is missing."""
        tab = self.tab
        if not (path := values[tab.dropped]):
            return gr.skip()
        recipe, unsupported = recipe_of_picture(path)
        shot, missing = shot_of_recipe(self.space, recipe)
        problems = [*unsupported, *missing]
        update = self._open(values, shot, problems) | {tab.dropped: None}
        if update[tab.auto] and not problems:
            return update | self._draw_change({**values, tab.auto: True}, shot)
        update |= self._drop_job(values, shot, problems)
        return update | {tab.frame: html.empty(NO_PICTURE), tab.picture: None}

    def delete(self, values: Values) -> Update:
        """The picture shown goes to the trash."""
        if not (id := values[self.tab.picture]):
            return gr.skip()
        return self._delete(values, [id]) | self.view.history(values[self.tab.listing])

    def delete_picked(self, values: Values) -> Update:
        """All that are picked go to the trash; those that are gone already are left out."""
        listing = values[self.tab.listing]
        there = []
        for id in sorted(listing.picked or ()):
            with suppress(BadInput):
                there.append(get_picture(self.space, id).id)
        listing = replace(listing, picked=frozenset())
        update = self._delete(values, there) | {self.tab.listing: listing}
        return update | self.view.history(listing)

    def _delete(self, values: Values, ids: Sequence[str]) -> Update:
        tab = self.tab
        update: Update = {
            tab.deleted: tuple(delete_picture(self.space, id) for id in ids),
            tab.undo: gr.Button(visible=True),
        }
        if values[tab.picture] not in ids:
            return update
        off = gr.Button(interactive=False)
        gone = {tab.picture: None, tab.delete: off, tab.star: off, tab.note: html.note("")}
        return update | gone | {tab.frame: html.empty("Deleted.")}

    def undo(self, values: Values) -> Update:
        """What was deleted last comes back from the trash."""
        tab = self.tab
        if not values[tab.deleted]:
            return gr.skip()
        paths = [undelete(self.space, id) for id in values[tab.deleted]]
        shown = f"{paths[-1].parent.name}/{paths[-1].name}"
        update: Update = self.view.picture(shown) if len(paths) == 1 else {}
        update |= {tab.deleted: (), tab.undo: gr.Button(visible=False)}
        return update | self.view.history(values[tab.listing])

    def send_to_batch(self, values: Values) -> Update:
        """The tab Batch opens with these settings."""
        return {self.page.shot: self.form.read(values), self.page.tabs: gr.Tabs(selected="batch")}

    def _open(self, values: Values, shot: Shot, problems: Sequence[str]) -> Update:
        """Settings from elsewhere, and a notice of what is missing or unusual."""
        update = self._filled(shot, values)
        notices = [*problems, *([OLD_SYNTAX] if shot.syntax == "cut" else [])]
        update[self.tab.notice] = gr.HTML(html.notice(notices), visible=bool(notices))
        auto = shot.base in BUNDLED_BASES and bool(values[self.tab.auto])
        return update | {self.tab.auto: auto, self.form.lock: True}

    def _drop_job(self, values: Values, shot: Shot, problems: Sequence[str]) -> Update:
        """No job is shown; these settings are not drawn until they change."""
        self._stop_own_job(values)
        queued = None if problems else (shot, self.form.read_loading(values))
        stop = gr.Button(interactive=False)
        return {self.tab.job: None, self.tab.queued: queued, self.tab.stop: stop}


def _check(shot: Shot) -> None:
    """Raise BadInput for what can't be drawn, as far as the headers of the adapters show."""
    with suppress(compose.NeedsWeights):
        compose.outline(shot)
