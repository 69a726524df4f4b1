"""Reads the fields of a manifest as values of `studio.Shot`.

Messages of BadInput here don't name the field: the caller adds line and field.
"""

import os
import re
from functools import lru_cache

import compose
from studio.adapters.blora_blocks import split_half
from studio.adapters.describe import describe
from studio.bases.names import BUNDLED_BASES, HUB_ID
from studio.errors import BadInput
from studio.json_value import parse_json
from studio.requests.adapter_tags import find_adapter
from studio.requests.regions import embed_mask
from studio.requests.shot import RANDOM_SEED, Shot
from studio.requests.validation import InvalidFields, check_fields, in_words
from ui.batch.manifest_lines import without_name
from ui.batch.named_files import NamedFiles
from ui.shared.form import Form, fields_of
from ui.shared.names import check_strength, split_strength, suffix_hint

TEXTS = ("prompt", "negative")
PLAIN = Form(Shot, without=frozenset({"adapters", "method", "init_image", "mask"}))
TYPES = {one.name: one.type for one in fields_of(PLAIN)}
BETWEEN_ADAPTERS = " + "
BY_NAME = "call adapters by their names in the library"
RANGE = re.compile(r"\s*(\d{1,19})\s*\.\.\s*(\d{1,19})\s*")
Mix = tuple[tuple[str, float], ...]


def read_cell(field: str, text: str) -> object:
    """A CSV cell in its field's type. A text that is no number stays text, and is refused later."""
    try:
        return TYPES.get(field, str)(text)
    except ValueError:
        return text


def grid_values(key: str, raw: object, *, most: int) -> list[tuple[int | None, object]]:
    """The values of a grid's field, with their places in its list; seeds may be "1..8"."""
    span = RANGE.fullmatch(raw) if key in ("seed", "seeds") and isinstance(raw, str) else None
    if span:
        first, last = int(span[1]), int(span[2])
        if not first <= last < first + most:
            raise BadInput(f"{raw} is not a rising range of at most {most:,} seeds")
        return [(None, seed) for seed in range(first, last + 1)]
    if key in ("adapters", "regions", "avoid") or not isinstance(raw, list):
        return [(None, raw)]
    if not raw:
        raise BadInput("the list is empty: leave it out, or put something in")
    return list(enumerate(raw))


def read_value(field: str, raw: object, files: NamedFiles) -> object:
    """A field's value for `Shot`. Raises BadInput for a value that the field can't have."""
    match field:
        case "adapters":
            return _mix(raw, files)
        case "method":
            return _method(raw)
        case "init_image" | "mask":
            return _picture(raw, files)
        case "base":
            return _base(raw, files)
        case "avoid":
            return tuple(_texts("avoid", raw))
        case "regions":
            return _regions(raw, files)
    if field == "seed" and raw == RANDOM_SEED:
        raise BadInput(
            f"a batch finds its pictures again by their seeds, so none can be {raw}, any seed: "
            'give numbers, such as "1..8"'
        )
    _check(field, raw)
    return raw


def _check(field: str, value: object) -> None:
    """Raise BadInput for a value that no shot can have."""
    try:
        check_fields(Shot, {field: value})
    except InvalidFields as error:
        raise BadInput(without_name(field, error.problems[field])) from None


def _text(raw: object, what: str) -> str:
    if not isinstance(raw, str) or not raw.strip():
        raise BadInput(f"{in_words(raw)} is not {what}")
    return raw.strip()


def _mix(raw: object, files: NamedFiles) -> Mix:
    """The adapters in a list of FILE[:HALF][:STRENGTH], or in a text with " + " between them."""
    if isinstance(raw, str):
        raw = raw.split(BETWEEN_ADAPTERS) if raw.strip() else []
    if not isinstance(raw, list):
        raise BadInput(f'{in_words(raw)} is not a list of adapters, such as ["robot.safetensors"]')
    return tuple(_adapter(one, files) for one in raw)


def _regions(raw: object, files: NamedFiles) -> tuple[str, ...]:
    """The regions in a list, or in a text with " + " between them; mask files become data."""

    def find(name: str) -> str:
        return files.find(name, otherwise="call the picture of a mask by its id in the history")

    return tuple(embed_mask(text, find) for text in _texts("regions", raw))


def _texts(field: str, raw: object) -> list[str]:
    """A list of texts, or one text with " + " between them."""
    texts = raw.split(BETWEEN_ADAPTERS) if isinstance(raw, str) else raw
    _check(field, texts)
    assert isinstance(texts, list)
    return texts


def tagged_adapter(name: str, files: NamedFiles) -> str:
    """The file of an adapter that a prompt names. Raises BadInput if it is missing or damaged."""
    files.find(split_half(name)[0], otherwise=BY_NAME)
    file = find_adapter(name, folder=files.folder)
    path = os.path.abspath(split_half(file)[0])
    files.find(path, otherwise=BY_NAME)  # checked again, as it may be in another workspace
    _check_adapter_file(path, os.stat(path).st_mtime_ns)
    return file


def _adapter(raw: object, files: NamedFiles) -> tuple[str, float]:
    text = _text(raw, "an adapter, such as robot.safetensors:0.8")
    file, strength = split_strength(text)
    path = files.find(file, otherwise=BY_NAME)
    whole, _ = split_half(path)
    if not os.path.exists(whole):
        raise BadInput(f"there is no adapter {in_words(whole)}{suffix_hint(whole)}")
    _check_adapter_file(whole, os.stat(whole).st_mtime_ns)
    check_strength(strength, text)
    return path, strength


@lru_cache(maxsize=4096)
def _check_adapter_file(file: str, changed: int) -> None:
    """Raise BadInput for a damaged adapter. changed: its time, so that a version is read once."""
    describe(file)


def _picture(raw: object, files: NamedFiles) -> str:
    path = files.find(
        _text(raw, "a picture's file"), otherwise="call a picture by its id in the history"
    )
    if not os.path.isfile(path):
        raise BadInput(f"there is no picture {in_words(path)}")
    return path


def _base(raw: object, files: NamedFiles) -> str:
    """A base: one of Studio's names, a path (relative to the manifest's folder), or a hub id."""
    text = _text(raw, "a base")
    path = files.find(text, otherwise="add it to the bases in the library first")
    if text not in BUNDLED_BASES and os.path.exists(path):
        return path
    if text not in BUNDLED_BASES and not HUB_ID.fullmatch(text):
        raise BadInput(
            f"there is no base {in_words(text)}: give {', '.join(BUNDLED_BASES)}, a folder, "
            "a .safetensors file or a Hugging Face id"
        )
    return text


def _method(raw: object) -> compose.Method:
    """A method: `klora`, `klora alpha=1.2 style=2`, or a table with name and options."""
    if isinstance(raw, dict):
        options = {key: value for key, value in raw.items() if key != "name"}
        name = _text(raw.get("name"), "a method's name, which is missing in the table")
    else:
        name, *words = _text(raw, "a method, such as klora").split()
        options = _options(name, words)
    return compose.method_named(name, options)


def _options(name: str, words: list[str]) -> dict[str, object]:
    options: dict[str, object] = {}
    kind = compose.methods().get(name)
    many = {field.name for field in fields_of(Form(kind, "")) if field.many} if kind else set()
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise BadInput(f"{in_words(word)} is not an option: write it as alpha=1.2")
        values = [_parsed(one) for one in text.split(",")]
        options[key] = values if key in many else _parsed(text)
    return options


def _parsed(text: str) -> object:
    """A word as a number or boolean if it is one, otherwise as text."""
    try:
        value = parse_json(text, "it")
    except BadInput:
        return text
    return value if isinstance(value, int | float) else text
