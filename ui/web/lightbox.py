"""Pictures that the page shows large, each with a caption and its recipe (static/lightbox.js).

lightbox = lay_out_lightbox()            # once in a page
{{ look(file, caption, facts) }}         # in a template, inside an element with data-album
"""

from pathlib import Path
from typing import TypeAlias

import gradio as gr

from studio.requests.shot import Shot, method_name
from ui.shared.grid import shot_fields
from ui.shared.names import adapter_name
from ui.web.frontend import script
from ui.web.words import fact_label, fact_text, value_label

Facts: TypeAlias = list[tuple[str, str]]
ALWAYS = {"prompt", "seed", "steps", "guidance", "base"}  # fields shown even at their defaults


def lay_out_lightbox() -> gr.HTML:
    """The lightbox. Its `click` event carries the id of a picture to open in Mix."""
    return gr.HTML(js_on_load=script("lightbox.js"), visible="hidden")


def mix_words(shot: Shot) -> str:
    """A shot's adapters, strengths and method, such as "robot 1 + ink 0.7, Switch"."""
    if not shot.adapters:
        return "no adapter"
    mix = " + ".join(f"{adapter_name(str(file))} {by:g}" for file, by in shot.adapters)
    method = method_name(shot.method, shot.regions)
    alone = len(shot.adapters) == 1 and method == "merge"
    return mix if alone else f"{mix}, {value_label(method)}"


def shot_facts(shot: Shot) -> Facts:
    """A picture's recipe as labels and texts.

    Fields at their defaults are left out, except for those in ALWAYS.
    """
    defaults = shot_fields(Shot(""))
    facts = [
        ("Started from" if name == "init_image" else fact_label(name), _text(name, value))
        for name, value in shot_fields(shot).items()
        if name in ALWAYS or value != defaults.get(name)
    ]
    return [(name, text) for name, text in facts if text]


def _text(name: str, value: object) -> str:
    if isinstance(value, Path):
        return value.name
    return "" if value is None else fact_text(name, value)
