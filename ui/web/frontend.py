"""The page's HTML, styles and scripts, which are files beside this one.

    template("library/cards.html").render(adapters=adapters, chosen="robot")
    gr.HTML(js_on_load=script("clicked_item.js"))

Templates escape the values that they are given. An undefined name in a template raises an error.
"""

import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from time import localtime, strftime
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from studio.duration import format_duration
from ui.web.server.downloads import file_url
from ui.web.words import METHODS, first_methods, in_words

KIND_NAMES = {
    "lora": "LoRA",
    "diffusekrona": "DiffuseKronA",
    "blora": "B-LoRA",
    "sara": "SaRA",
    "oft": "OFT",
    "tlora": "T-LoRA",
    "guidance": "Fast: guidance",
    "lcm": "Fast: LCM",
    "align": "Align to a reward",
    "tile": "Reward: seamless tile",
    "palette": "Reward: palette",
    "brightness": "Reward: brightness",
    "contrast": "Reward: contrast",
    "filesize": "Reward: file size",
    "judge": "Reward: what sketch's judge sees",
    "clip": "Reward: likeness or beauty by CLIP",
}
FOLDER = Path(__file__).parent
MARKED, UNMARKED = "★ Favourite", "☆ Favourite"  # the button's label for a favourite and for others
ONCE = "studio-once"  # CSS class of a button on which a double click counts once: heard.js
MARK = FOLDER / "templates" / "mark.svg"
STYLES = sorted((FOLDER / "static").glob("*.css"))


def template(name: str) -> Template:
    """A template by its path in `templates/`, such as "library/cards.html"."""
    return _environment.get_template(name)


def script(name: str) -> str:
    """A script of `static/` as text, for `gr.HTML(js_on_load=...)` or an event's `js`."""
    return (FOLDER / "static" / name).read_text(encoding="utf-8")


def notices(done: Sequence[str], refused: Sequence[str] = ()) -> str:
    """HTML with one line for each thing that was done or refused."""
    return template("notices.html").render(done=done, refused=refused)


def method_choices(methods: Iterable[str], *, told: bool = False) -> list[tuple[str, str]]:
    """(label, name) of each method, the best to try first in front.

    told: the label also says what the method does.
    """
    names = first_methods(methods)
    labels = [METHODS.get(name, (name, "")) for name in names]
    return [
        (": ".join(filter(None, label)) if told else label[0], name)
        for label, name in zip(labels, names, strict=True)
    ]


def paragraph(text: str, kind: Literal["quiet", "problem", "studio-cost"] = "quiet") -> str:
    """An HTML paragraph. kind: its CSS class."""
    return template("paragraph.html").render(text=text, kind=kind)


def local_time(seconds: float) -> str:
    """Seconds since 1970 as "2026-01-31 14:05"."""
    return strftime("%Y-%m-%d %H:%M", localtime(seconds))


def picture_url(picture: Path) -> str:
    """The URL of a picture. It changes whenever the file does, so browsers load the file anew."""
    return f"{file_url(picture)}?v={picture.stat().st_mtime_ns}"


def sentence(words: str) -> str:
    """The words with a capital letter, a full stop, and labels in place of fields' names."""
    words = in_words(words.strip())
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith(('.', '!', '?')) else '.'}"


_environment = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.globals["KIND_NAMES"] = KIND_NAMES
_environment.filters |= {
    "duration": format_duration,
    "file_url": file_url,
    "local_time": local_time,
    "picture_url": picture_url,
    "sentence": sentence,
    "to_json": partial(json.dumps, ensure_ascii=False),  # unlike jinja's, its output is escaped
}
