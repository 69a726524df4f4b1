"""Pictures that the page shows large, each with a caption and its recipe (static/lightbox.js).

lightbox = lay_out_lightbox()            # once a page; its `click` tells a picture's id
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
ALWAYS = {"prompt", "seed", "steps", "guidance", "base"}  # of a recipe, whatever they are


def lay_out_lightbox() -> gr.HTML:
    """What shows pictures large; its `click` tells the id of a picture to open in Mix."""
    return gr.HTML(js_on_load=script("lightbox.js"), visible="hidden")


def mix_words(shot: Shot) -> str:
    """Its adapters with their strengths and its method, such as "robot 1 + ink 0.7, Switch"."""
    if not shot.adapters:
        return "no adapter"
    mix = " + ".join(f"{adapter_name(str(file))} {by:g}" for file, by in shot.adapters)
    method = method_name(shot.method, shot.regions)
    alone = len(shot.adapters) == 1 and method == "merge"
    return mix if alone else f"{mix}, {value_label(method)}"


def shot_facts(shot: Shot) -> Facts:
    """The recipe of a picture, for people: names and values, without what is at its default."""
    usual = shot_fields(Shot(""))
    facts = [
        ("Started from" if name == "init_image" else fact_label(name), _text(name, value))
        for name, value in shot_fields(shot).items()
        if name in ALWAYS or value != usual.get(name)
    ]
    return [(name, text) for name, text in facts if text]


def _text(name: str, value: object) -> str:
    if isinstance(value, Path):
        return value.name
    return "" if value is None else fact_text(name, value)
