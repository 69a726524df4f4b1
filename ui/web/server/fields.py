"""The fields of a form as widgets, and the values that are typed into them.

An empty widget means that nothing was given: then the dataclass's default applies, or one that
suits the base. That default is shown as the placeholder.
"""

from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from studio.errors import BadInput
from ui.shared.form import Field, Form, fields_of

# Of fields whose names do not say by themselves what they are.
LABELS = {
    "a1": "Rows of A",
    "a2": "Columns of A",
    "accumulation": "Gradient accumulation",
    "adjust_at": "Adjust after",
    "anyway": "Train SD 1.x or 2.x anyway",
    "background": "Background colour",
    "batch": "Batch size",
    "cache": "Keep prepared pictures in",
    "checkpointing": "Gradient checkpointing",
    "compile": "Compile blocks",
    "clip": "Gradient clipping",
    "clip_skip": "CLIP layer from the end",
    "crops": "Random crops",
    "dora": "DoRA",
    "dtype": "Precision",
    "ema": "EMA decay",
    "flip": "Mirror pictures",
    "buckets": "Keep the pictures' shape",
    "keep": "Checkpoints to keep",
    "lora_plus": "LoRA+",
    "lr": "Learning rate",
    "masked": "Masks",
    "min_snr": "Min-SNR gamma",
    "new_tokens": "Vectors of a new word",
    "offload": "Offload to the CPU",
    "prior_class": "Class",
    "prior_count": "Number of class pictures",
    "prior_weight": "Weight of class pictures",
    "rank_of": "Low rank of",
    "rank_stabilised": "Rank-stabilised (rsLoRA)",
    "rank_weight": "Weight of the low-rank loss",
    "schedule": "Learning rate schedule",
    "shared_text": "Read the prompt once",
    "tensorboard": "TensorBoard log",
    "text_encoders": "Train the text encoders",
    "text_lr": "Text encoder learning rate",
    "token": "New word",
    "token_init": "New word starts as",
    "token_lr": "New word learning rate",
    "unmasked_weight": "Weight outside the masks",
    "vae": "VAE",
    "vae_slicing": "VAE slicing",
    "vae_tiling": "VAE tiling",
    "warmup": "Warmup steps",
    **{
        f"{part}_a{n}": f"{words}: {side} of A"
        for part, words in {"q": "Queries", "k": "Keys", "v": "Values", "out": "Output"}.items()
        for n, side in ((1, "rows"), (2, "columns"))
    },
}


def field_widgets(form: Form) -> dict[str, Component]:
    """A widget for each field, by its name, laid out where this is called."""
    return {field.name: _widget(field, form) for field in fields_of(form)}


def read_values(form: Form, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the fields; those that are empty or at their default are left out.

    A field in `form.defaults` is left out only if it is empty, since its default may differ from
    that of the dataclass. Raises BadInput that names a field with a value of another type.
    """
    found = {}
    for field in fields_of(form):
        value = _parse(field, given.get(field.name))
        if value is not None and (value != field.default or field.name in form.defaults):
            found[field.name] = value
    return found


def shown_values(form: Form, given: Mapping[str, Any]) -> dict[str, Any]:
    """The widgets' contents for these values; empty where a default applies."""
    return {field.name: _shown(field, form, given) for field in fields_of(form)}


def read_whole_number(name: str, typed: str) -> int:
    """A whole number of any length; BadInput with this name where the text is none."""
    try:
        return int(typed)
    except ValueError:
        raise BadInput(f"{name}: {typed.strip()!r} is not a whole number") from None


def read_number(name: str, given: object) -> float:
    """The number of a slider; BadInput with this name where its field was emptied."""
    if isinstance(given, int | float):
        return float(given)
    raise BadInput(f"{name}: {given or 'nothing'} is not a number")


def _widget(field: Field, form: Form) -> Component:
    label = LABELS.get(field.name, field.name.replace("_", " ").capitalize())
    info = field.help[:1].upper() + field.help[1:]
    default = form.defaults.get(field.name)
    shown = default or ("" if field.default in (None, ()) else str(field.default))
    if field.many:
        return gr.Textbox(label=label, info=f"{info}, separated by commas", placeholder=shown)
    if field.type is bool:
        return gr.Checkbox(label=label, info=info, value=bool(field.default))
    if field.choices:
        value = None if default else field.default
        return gr.Dropdown(list(field.choices), label=label, info=info, value=value)  # pyright: ignore
    # Numbers too: an empty gr.Number is a zero.
    return gr.Textbox(label=label, info=info, placeholder=shown)


def _shown(field: Field, form: Form, given: Mapping[str, Any]) -> Any:
    value = given.get(field.name, field.default)
    usual = field.name not in given or (value == field.default and field.name not in form.defaults)
    if field.many:
        return ", ".join(map(str, value or ()))
    if field.type is bool:
        return bool(value)
    if field.choices:
        return None if usual and field.name in form.defaults else value
    return "" if usual or value is None else str(value)


def _parse(field: Field, value: Any) -> Any:
    if field.many:
        words = [word.strip() for word in str(value or "").split(",") if word.strip()]
        return tuple(_parse_one(field, word) for word in words) or None
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return _parse_one(field, value)


def _parse_one(field: Field, value: Any) -> Any:
    if field.choices and value not in field.choices:
        raise BadInput(f"{field.name}: {value!r} is none of {', '.join(field.choices)}")
    try:
        return field.type(value.strip() if isinstance(value, str) else value)
    except (TypeError, ValueError):
        expected = {int: "a whole number", float: "a number"}.get(field.type, field.type.__name__)
        raise BadInput(f"{field.name}: {value!r} is not {expected}") from None
