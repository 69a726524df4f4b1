"""The part of the tab Train for trainings without pictures: prompts, and merged adapters."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import gradio as gr

from studio.files import write_file
from studio.workspace import Workspace, adapter_path, list_adapters
from ui.shared.names import split_strength


@dataclass(frozen=True)
class PromptWidgets:
    """The widgets, shown in place of pictures and trigger words.

    prompts: one prompt a line. adapters: names of the library, also with a strength.
    """

    group: gr.Group
    prompts: gr.Textbox
    adapters: gr.Dropdown


def lay_out_prompts(space: Workspace) -> PromptWidgets:
    """Lay the widgets out, hidden."""
    with gr.Group(visible=False) as group:
        prompts = gr.Textbox(
            label="Prompts",
            info="One a line: what you will draw. sketch has captions of its own",
            lines=4,
            max_lines=12,
            placeholder="a photo of a cat on a sofa",
        )
        adapters = gr.Dropdown(
            _names(space),
            value=[],
            multiselect=True,
            allow_custom_value=True,
            label="Adapters merged in",
            info="Adapters that you will draw with too, such as robot or robot:0.8",
        )
    adapters.focus(lambda: gr.Dropdown(_names(space)), outputs=adapters, api_visibility="private")
    return PromptWidgets(group, prompts, adapters)


def prompts_file(space: Workspace, text: str | None) -> Path | None:
    """Write the prompts into a file of the workspace; returns its path, or None for no text."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    if not lines:
        return None
    data = "\n".join(lines).encode()
    path = space.prompts / f"{sha256(data).hexdigest()[:24]}.txt"
    if not path.exists():
        write_file(path, data)
    return path


def adapters_of(space: Workspace, names: list[str] | None) -> list[tuple[str, float]]:
    """The paths and strengths of adapters such as robot:0.8. Raises BadInput for unknown names."""
    pairs = map(split_strength, names or [])
    return [(adapter_path(space, name), strength) for name, strength in pairs]


def _names(space: Workspace) -> list[str]:
    return [adapter.name for adapter in list_adapters(space)]
