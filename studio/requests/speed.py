"""Set the sampling of a shot that has a speed adapter.

One rule holds wherever pictures are made: the first speed adapter of a mix sets sampler, spacing,
steps and guidance, except for those that the caller gave. A sentence tells what was set.
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
    """The shot with the sampling of its speed adapter, and a sentence, see `speed_fields`.

    given: names of the fields that keep their values; None: those that the shot's maker has set.
    """
    if given is None:
        values = {name: getattr(shot, name) for name in FIELDS}
        given = [n for n, v in values.items() if v is not None and not isinstance(v, Unset)]
    fields, sentence = speed_fields(shot.adapters, given)
    if not fields:
        return shot, sentence
    return replace(shot, **fields), sentence  # pyright: ignore[reportArgumentType]


def speed_fields(
    adapters: "Iterable[tuple[Adapter | object, float]]", given: Collection[str]
) -> tuple[dict[str, object], str]:
    """The fields that the first speed adapter of a mix sets, and a sentence that tells them.

    Empty where there is no speed adapter. adapters: pairs of an adapter, or its file, and its
    strength. given: names of the fields that the user has set, which are left out.
    A file that can't be read is skipped here; an error comes from whoever loads it.
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
    """A note that the shot's negative prompt does nothing; "" where it acts or is empty."""
    if shot.guidance > 1 or not shot.negative:
        return ""
    return f"the negative prompt does nothing where the CFG scale is {shot.guidance:g}"
