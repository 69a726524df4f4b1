"""What a speed adapter sets of a shot, and what is said of it.

One rule, wherever pictures are made: the first speed adapter of a mix sets sampler, spacing, steps
and guidance, except for those that the caller gave. What was set is said.
"""

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from studio.adapters.blora_blocks import split_half
from studio.adapters.speed import FIELDS, in_words, speed_sampling
from studio.errors import BadInput
from studio.requests.shot import Shot, Unset

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter


def with_speed(shot: Shot, given: Collection[str] | None = None) -> tuple[Shot, str]:
    """The shot with what its speed adapter sets, and a sentence, see `speed_fields`.

    given: the fields that stay; where it is None, those that the shot does not have by default.
    """
    if given is None:
        set_ = {name: getattr(shot, name) for name in FIELDS}
        given = [n for n, one in set_.items() if one is not None and not isinstance(one, Unset)]
    fields, said = speed_fields(shot.adapters, given)
    if not fields:
        return shot, said
    return replace(shot, **fields), said  # pyright: ignore[reportArgumentType]


def speed_fields(
    adapters: "Iterable[tuple[Adapter | object, float]]", given: Collection[str]
) -> tuple[dict[str, object], str]:
    """What the first speed adapter of a mix sets, but for fields that are given, and a sentence.

    adapters: with their strengths. Only their files are looked at. A file that can't be read is
    passed over: whoever opens it says what is wrong.
    """
    for adapter, strength in adapters:
        file = getattr(adapter, "path", adapter)
        path = split_half(str(file))[0]
        sampling = None
        if file is not None and strength > 0:
            with suppress(BadInput):
                sampling = speed_sampling(path)
        fields = sampling.fields(given) if sampling else {}
        if sampling and fields:
            name = str(file).replace("\\", "/").rpartition("/")[2].removesuffix(".safetensors")
            return fields, f"{name} makes pictures fast ({sampling.name}): {in_words(fields)}"
    return {}, ""


def negative_note(shot: Shot) -> str:
    """That a negative prompt does nothing; "" where it does something."""
    if shot.guidance > 1 or not shot.negative:
        return ""
    return f"the negative prompt does nothing where the CFG scale is {shot.guidance:g}"
