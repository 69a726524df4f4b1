"""The history of Mix, and the settings in PNG files."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import gradio as gr

from studio.bases.names import BUNDLED_BASES
from studio.errors import BadInput
from studio.requests.picture_file import read_recipe
from studio.requests.shot import Shot
from studio.workspace import delete_picture, get_picture, undelete, write_label
from ui.web.mix import html
from ui.web.mix.handlers.settings import Handlers
from ui.web.mix.history import HISTORY_PAGE, Listing, favourites, picture_place
from ui.web.mix.recipes import recipe_of_picture, shot_of_recipe
from ui.web.mix.tab import NO_PICTURE
from ui.web.server.page import Update, Values

OLD_SYNTAX = (
    "An older Studio drew this picture. It knew no weights and cut long prompts, so the prompt is "
    'read that way again. Choose a1111 under "How prompts are read" to change that.'
)


class Pictures(Handlers):
    """Finds, reopens, marks and deletes pictures."""

    def list_history(self, values: Values) -> Update:
        """The filter was changed, or "Select several" was ticked or unticked."""
        tab = self.tab
        picked = frozenset() if values[tab.several] else None
        words, only = values[tab.search] or "", bool(values[tab.favourites])
        listing = Listing(words=words, favourites=only, picked=picked)
        return {tab.listing: listing} | self.view.history(listing)

    def click_history(self, values: Values, event: gr.EventData) -> Update:
        """Show more pictures, pick the one clicked while several are selected, or open it."""
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
        """Make the picture shown a favourite, or no longer one."""
        if not (id := values[self.tab.picture]):
            return gr.skip()
        marked = id not in favourites(self.space)
        write_label(self.space, picture_place(id), favourite=marked)
        return {self.tab.star: self.view.star(marked)} | self.view.history(values[self.tab.listing])

    def reopen(self, values: Values, event: gr.EventData) -> Update:
        """Show a picture and its settings."""
        path = get_picture(self.space, str(event.name)).path
        recipe = read_recipe(path)
        shot, problems = shot_of_recipe(self.space, recipe)
        update = self._open(values, shot, problems) | self._drop_job(values, shot, problems)
        update |= self.view.picture(str(event.name))
        return update | {self.tab.note: html.recipe_note(recipe, path)}

    def open_picture(self, values: Values, event: gr.EventData) -> Update:
        """Show a picture of another tab and its settings, and select the tab Mix."""
        return self.reopen(values, event) | {self.page.tabs: gr.Tabs(selected="mix")}

    def open_file(self, values: Values) -> Update:
        """Take over the settings of a PNG, and draw them unless a part of them is missing here."""
        tab = self.tab
        if not (path := values[tab.dropped]):
            return gr.skip()
        recipe, unsupported = recipe_of_picture(path)
        shot, missing = shot_of_recipe(self.space, recipe)
        problems = [*unsupported, *missing]
        update = self._open(values, shot, problems) | {tab.dropped: None}
        if update[tab.auto] and not problems:
            return update | self.drawing.draw_change({**values, tab.auto: True}, shot)
        update |= self._drop_job(values, shot, problems)
        return update | self._no_picture(NO_PICTURE)

    def delete(self, values: Values) -> Update:
        """Move the picture shown to the trash."""
        if not (id := values[self.tab.picture]):
            return gr.skip()
        return self._delete(values, [id]) | self.view.history(values[self.tab.listing])

    def delete_picked(self, values: Values) -> Update:
        """Move the picked pictures to the trash, except for those that are gone already."""
        listing = values[self.tab.listing]
        ids = []
        for id in sorted(listing.picked or ()):
            with suppress(BadInput):
                ids.append(get_picture(self.space, id).id)
        listing = replace(listing, picked=frozenset())
        update = self._delete(values, ids) | {self.tab.listing: listing}
        return update | self.view.history(listing)

    def _delete(self, values: Values, ids: Sequence[str]) -> Update:
        tab = self.tab
        update: Update = {
            tab.deleted: tuple(delete_picture(self.space, id) for id in ids),
            tab.undo: gr.Button(visible=True),
        }
        if values[tab.picture] not in ids:
            return update
        return update | self._no_picture("Deleted.")

    def _no_picture(self, words: str) -> Update:
        """These words are shown, and no picture, of which nothing is said any more."""
        tab, off = self.tab, gr.Button(interactive=False)
        shown: Update = {tab.frame: html.empty(words), tab.note: html.note(""), tab.picture: None}
        return shown | {tab.delete: off, tab.star: off}

    def undo(self, values: Values) -> Update:
        """Restore what was deleted last."""
        tab = self.tab
        if not values[tab.deleted]:
            return gr.skip()
        paths = [undelete(self.space, id) for id in values[tab.deleted]]
        shown = f"{paths[-1].parent.name}/{paths[-1].name}"
        update: Update = self.view.picture(shown) if len(paths) == 1 else {}
        update |= {tab.deleted: (), tab.undo: gr.Button(visible=False)}
        return update | self.view.history(values[tab.listing])

    def _open(self, values: Values, shot: Shot, problems: Sequence[str]) -> Update:
        """Show the settings of a picture or file, and a notice of what is missing or unusual."""
        update = self.settings.filled(shot, values)
        notices = [*problems, *([OLD_SYNTAX] if shot.syntax == "cut" else [])]
        update[self.tab.notice] = gr.HTML(html.notice(notices), visible=bool(notices))
        auto = shot.base in BUNDLED_BASES and bool(values[self.tab.auto])
        return update | {self.tab.auto: auto, self.form.lock: True}

    def _drop_job(self, values: Values, shot: Shot, problems: Sequence[str]) -> Update:
        """Show no job any more, and draw these settings only when they change."""
        self.drawing.stop_own_job(values)
        queued = None if problems else (shot, self.form.loading.read(values))
        stop = gr.Button(interactive=False)
        return {self.tab.job: None, self.tab.queued: queued, self.tab.stop: stop}
