"""The page's labels for the short names of fields and values in code, commands and manifests.

label("lr")                               # "Learning rate"
in_words("lr must be a number above 0")   # "Learning rate must be a number above 0"
"""

import re
from collections.abc import Iterable
from dataclasses import fields
from functools import lru_cache

import compose
import trainers
from studio.requests.a1111 import A1111_SAMPLERS
from studio.requests.shot import Shot
from ui.shared.grid import listed
from ui.shared.loading import Loading

# Other fields are labelled by their names; these names don't say what the fields are.
LABELS = {
    "a1": "Rows of A",
    "a2": "Columns of A",
    "accumulation": "Gradient accumulation",
    "adjust_at": "Adjust after",
    "anyway": "Train SD 1.x or 2.x anyway",
    "avoid": "Words to avoid",
    "avoid_by": "Avoid by",
    "background": "Background colour",
    "batch": "Batch size",
    "buckets": "Keep the pictures' shape",
    "cache": "Keep prepared pictures in",
    "checkpointing": "Gradient checkpointing",
    "clip": "Gradient clipping",
    "clip_skip": "Clip skip",
    "compile": "Compile blocks",
    "crops": "Random crops",
    "cuda_graphs": "CUDA graphs",
    "dora": "DoRA",
    "dtype": "Precision",
    "ema": "EMA decay",
    "flip": "Mirror pictures",
    "guidance": "CFG scale",
    "init_image": "Start from a picture",
    "keep": "Checkpoints to keep",
    "larger": "Large files",
    "last": "Steps that learn",
    "lora_plus": "LoRA+",
    "lr": "Learning rate",
    "masked": "Masks",
    "min_snr": "Min-SNR gamma",
    "negative": "Negative prompt",
    "new_tokens": "Vectors of a new word",
    "offload": "Offload to the CPU",
    "pictures": "Different pictures",
    "prior_class": "Class",
    "prior_count": "Number of class pictures",
    "prior_weight": "Weight of class pictures",
    "quantize": "Quantize the base",
    "rank_of": "Low rank of",
    "rank_stabilised": "Rank-stabilised (rsLoRA)",
    "rank_weight": "Weight of the low-rank loss",
    "schedule": "Learning rate schedule",
    "scheduler": "Sampler",
    "shared_text": "Read the prompt once",
    "spacing": "Step spacing",
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
        f"{part}_a{n}": f"{title}: {side} of A"
        for part, title in {"q": "Queries", "k": "Keys", "v": "Values", "out": "Output"}.items()
        for n, side in ((1, "rows"), (2, "columns"))
    },
}
METHODS = {  # label, and what the method does with the adapters
    "merge": ("Merge", "all adapters at once"),
    "switch": ("Switch", "they take turns, some steps each"),
    "composite": ("Composite", "each by itself at every step, then the mean"),
    "klora": ("K-LoRA", "a subject and a style, layer by layer"),
    "cmlora": ("CMLoRA", "one leads at a time, the others help"),
    "regions": ("Regions", "each in its own part of the picture"),
}
SAMPLERS = {  # labels of samplers and of spacings
    **A1111_SAMPLERS,
    "leading": "Leading",
    "trailing": "Trailing",
    "sgm_uniform": "SGM uniform",
    "karras": "Karras",
    "exponential": "Exponential",
}
OPTIMIZERS = {
    "adamw": "AdamW",
    "adamw8bit": "AdamW 8-bit",
    "prodigy": "Prodigy",
    "lion": "Lion",
}
VALUES = {**{name: title for name, (title, _) in METHODS.items()}, **SAMPLERS, **OPTIMIZERS}


def label(field: str) -> str:
    """A field's label, such as "Batch size"."""
    return LABELS.get(field, field[:1].upper() + field[1:].replace("_", " "))


def first_methods(names: Iterable[str]) -> list[str]:
    """Sort names of methods: the best to try first come first, unknown ones last."""
    return sorted(names, key=lambda name: (name not in METHODS, [*METHODS, name].index(name)))


def value_label(value: str) -> str:
    """The label of a method, a sampler or another choice, such as "DPM++ 2M"."""
    return VALUES.get(value, value)


def fact_text(name: str, value: object) -> str:
    """A value as text. name, value: an entry of `shot_fields`."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple | list):
        return listed(value)
    return value_label(str(value)) if name in ("method", "scheduler", "spacing") else str(value)


def value_named(word: str) -> str:
    """The value with this label, such as "dpmpp_2m" for "DPM++ 2M"; other words stay as they are.

    Upper and lower case make no difference.
    """
    named = {title.lower(): name for name, title in VALUES.items()}
    return named.get(word.lower(), word)


def fact_label(name: str) -> str:
    """The label of an entry of `shot_fields`, such as "K-LoRA alpha" or "CFG scale"."""
    method, _, option = name.partition(" ")
    if method in METHODS:
        return f"{METHODS[method][0]} {option}"
    return label(name)


def in_words(message: str, *, names: bool = False) -> str:
    """Replace names of fields and choices in a message by the page's labels.

    A name may be an ordinary word: it is replaced where a clause begins with it and goes on with a
    colon, "must" and the like. Names in code style, such as clip_skip, are replaced anywhere but in
    quotes, where they are what somebody typed. names: for people who write these names themselves,
    as in a manifest: names at the start of a clause stay behind their labels, all others as they
    are.
    """
    start, anywhere = _patterns()

    def labelled(match: re.Match[str]) -> str:
        name = match[0]
        title = VALUES.get(name) or label(name)
        return f"{title} ({name})" if names and title.lower() != name else title

    message = start.sub(labelled, message)
    if names:
        return message
    return anywhere.sub(lambda match: VALUES.get(match[0]) or f'"{label(match[0])}"', message)


@lru_cache(maxsize=1)
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns of names at the start of a clause, and of names in code style anywhere."""
    forms = [Shot, Loading, trainers.Recipe, *trainers.all_kinds().values()]
    forms += compose.methods().values()
    names = {field.name for form in forms for field in fields(form)}
    starting = "|".join(sorted({*names, *METHODS}, key=len, reverse=True))
    coded = [name for name in {*names, *SAMPLERS} if "_" in name]
    coded = "|".join(sorted([*coded, "lr"], key=len, reverse=True))
    follows = r"(?=: | (?:must|needs|is|gives)\b)"
    return (
        re.compile(rf"(?:^|(?<=; )|(?<=: )|(?<=\n))(?:{starting}){follows}"),
        re.compile(rf"(?<![\w./'\"-])(?:{coded})(?![\w/'\"-]|\.\w)"),
    )
