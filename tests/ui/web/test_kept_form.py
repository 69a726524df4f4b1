"""What a page keeps of its forms while it is reloaded, without a browser."""

import json
from pathlib import Path

import gradio as gr
from PIL import Image

from studio.workspace import Workspace
from tests.ui.web.conftest import in_a_loop
from ui.web.server.downloads import web_folder
from ui.web.server.kept_form import KeptForm


def form(space: Workspace, **widgets: gr.components.Component) -> tuple[KeptForm, str]:
    """A form of these widgets, and how the browser calls this version of it."""
    kept = KeptForm(space, "test", widgets.values())
    return kept, kept._words["form"]


def test_values_come_back_and_what_no_widget_can_have_is_left_out(
    space: Workspace, tmp_path: Path
) -> None:
    web_folder(space).mkdir(parents=True)
    sent, other = web_folder(space) / "start.png", tmp_path / "private.png"
    for path in (sent, other):
        Image.new("RGB", (8, 8)).save(path)
    (web_folder(space) / "link.png").symlink_to(other)

    async def read() -> None:
        with gr.Blocks():
            widgets = {
                "text": gr.Textbox(label="Seed"),
                "slider": gr.Slider(1, 100, label="Steps"),
                "box": gr.Checkbox(label="Lock"),
                "many": gr.CheckboxGroup(["merge", "switch"], label="Methods"),
                "picture": gr.Image(type="filepath", label="Picture"),
                "state": gr.JSON(label="More"),
            }
            kept, name = form(space, **widgets)
            widget = list(widgets.values())

        def back(*values: object) -> dict:
            return kept.read(json.dumps({"form": name, "values": values}))

        right = ["abc", 12, True, ["merge"], {"path": str(sent)}, {"a": 1}]
        assert back(*right) == dict(zip(widget, [*right[:4], str(sent), {"a": 1}], strict=True))
        assert back("", None, False, [], None, {}) == {
            widget[0]: "", widget[1]: None, widget[2]: False, widget[3]: [], widget[5]: {}
        }  # fmt: skip
        assert back(5, "12", 1, ["magic"], {"path": str(other)}, "x") == {}
        assert back("a", True, None, "merge", {"path": str(web_folder(space) / "link.png")}) == {
            widget[0]: "a"
        }
        assert back("a") == {widget[0]: "a"}
        for damaged in ("", None, "[", "[]", "3", '{"form": "another", "values": ["a"]}'):
            assert kept.read(damaged) == {}
        assert kept.read(json.dumps({"form": name, "values": 3})) == {}

    in_a_loop(read)
