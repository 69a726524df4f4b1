"""The layout of the tab Mix: settings on the left, the picture on the right, the history below."""

import gradio as gr
from gradio.components import Component

from ui.web.first_run import first_run
from ui.web.frontend import ONCE, UNMARKED, script
from ui.web.mix import html
from ui.web.mix.comparison import NOTHING
from ui.web.mix.history import Listing
from ui.web.mix.shot_form import ShotForm
from ui.web.server.kept_form import KeptForm
from ui.web.server.page import Page
from ui.web.server.polling import tab_news

COMPARES = [ONCE, "mix-compares"]  # CSS classes of buttons after which mix.js scrolls to the frame
NO_PICTURE = "Press Draw to make a picture."


class MixTab:
    """The components of the tab, laid out where this is created."""

    def __init__(self, page: Page) -> None:
        self._remember()
        with gr.Row(elem_id="mix-main", elem_classes="columns"):
            with gr.Column(
                scale=5, min_width=340, elem_id="mix-settings", elem_classes="studio-panel"
            ):
                self.form = ShotForm(page.space)
            with gr.Column(scale=6, min_width=340, elem_id="mix-side"):
                self._lay_out_picture()
                self._lay_out_comparison()
                first_run(page)
        with gr.Row(equal_height=False):
            self._lay_out_history()
        self.form_kept = KeptForm(page.space, "mix", {self.kept, *self.form_widgets()})

    def _remember(self) -> None:
        """The page's state between events, and the components that start some events."""
        self.job = gr.State(None)  # number of the job shown
        self.own_job = gr.State(None)  # number of the last job that this page queued
        self.job_version = gr.State(None)  # version of the job shown; None until the page is loaded
        self.queued = gr.State(None)  # the shot and the loading that the job shown was queued with
        self.picture = gr.State(None)  # id of the picture shown
        self.deleted = gr.State(())  # ids in the trash of what was deleted last
        self.was_opened = gr.State(False)  # whether the tab was opened in this page
        self.listing = gr.State(Listing())
        self.news = tab_news("mix")
        self.change = gr.HTML(js_on_load=script("mix.js"), visible="hidden")
        # The state that the browser keeps, as JSON. "hidden": with False its `change` never fires.
        self.kept = gr.Textbox(visible="hidden")

    def _lay_out_picture(self) -> None:
        pick = script("clicked_item.js")
        self.frame = gr.HTML(html.empty(NO_PICTURE), js_on_load=pick, elem_id="mix-frame")
        self.note = gr.HTML(html.note(""), elem_id="mix-note")
        self.notice = gr.HTML(visible=False, elem_id="mix-notice")
        self.problem = gr.HTML(visible=False, elem_id="mix-problem", padding=False)
        with gr.Row(equal_height=True):
            self.draw = gr.Button(
                "Draw", variant="primary", elem_id="mix-draw", elem_classes=ONCE, min_width=110,
                scale=2,
            )  # fmt: skip
            self.stop = gr.Button("Stop", interactive=False, elem_id="mix-stop", min_width=80)
            self.auto = gr.Checkbox(
                True, label="Draw every change", info="Ctrl+Enter draws too", min_width=170, scale=2
            )
        with gr.Row():
            self.send = gr.Button("Send to Batch", size="sm", min_width=100)
            self.delete = gr.Button("Delete picture", size="sm", interactive=False, min_width=100)
            self.star = gr.Button(UNMARKED, size="sm", interactive=False, min_width=100)
            self.undo = gr.Button("Undo delete", size="sm", visible=False, min_width=100)
        self.schedule = gr.HTML(elem_id="mix-schedule")

    def form_widgets(self) -> set[Component]:
        """The widgets that a person sets, whose values a reload keeps."""
        options = {self.auto, self.form.lock, self.column, self.columns, self.row, self.rows}
        return {*options, *self.form.widgets()}

    def drawing_buttons(self) -> tuple[gr.Button, ...]:
        """The buttons that draw, and are disabled while a setting is wrong."""
        return self.draw, self.compare_methods, self.compare_grid

    def _lay_out_comparison(self) -> None:
        with gr.Accordion("Compare settings", open=False):
            self.compare_methods = gr.Button("Compare all methods", elem_classes=COMPARES)
            with gr.Row():
                self.column, self.columns = _lay_out_axis("Columns", ("Method", "method"))
            with gr.Row():
                self.row, self.rows = _lay_out_axis("Rows", (NOTHING.capitalize(), NOTHING))
            self.compare_grid = gr.Button("Compare these values", elem_classes=COMPARES)

    def _lay_out_history(self) -> None:
        with gr.Column(scale=5, min_width=320):
            gr.HTML('<div class="section">History</div>')
            with gr.Row(elem_classes="tools"):
                self.search = gr.Textbox(
                    label="Find in the history", show_label=False, max_lines=1, min_width=180,
                    placeholder="Find: words of the prompt, an adapter, a method, a seed", scale=4,
                )  # fmt: skip
                self.favourites = gr.Checkbox(False, label="Only favourites", min_width=140)
                self.several = gr.Checkbox(False, label="Select several", min_width=140)
                self.delete_picked = gr.Button("Delete", size="sm", visible=False, min_width=110)
            self.history = gr.HTML(js_on_load=script("clicked_item.js"), elem_id="mix-history")
        with gr.Column(scale=1, min_width=220):
            self.dropped = gr.File(
                label="Open settings from a PNG", file_types=[".png"], height=150,
                elem_id="mix-drop",
            )  # fmt: skip


def _lay_out_axis(label: str, choice: tuple[str, str]) -> tuple[gr.Dropdown, gr.Textbox]:
    axis = gr.Dropdown([choice], value=choice[1], label=label, info="What changes", min_width=140)
    return axis, gr.Textbox(label="Values", info="Separated by commas", min_width=140)
