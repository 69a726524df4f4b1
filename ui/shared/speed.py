"""Fields of a shot that a speed adapter sets, and what is said of it."""

from collections.abc import Collection, Iterable
from dataclasses import replace

from studio.adapters.blora_blocks import split_half
from studio.adapters.speed import in_words, speed_sampling
from studio.requests.shot import Shot
from ui.shared.names import adapter_name


def speed_fields(
    adapters: Iterable[tuple[object, float]], given: Collection[str]
) -> tuple[dict[str, object], str]:
    """What the first speed adapter of a mix sets, but for fields that are given, and a sentence.

    adapters: files with their strengths. Raises BadInput for a file that is no adapter.
    """
    for file, strength in adapters:
        sampling = speed_sampling(split_half(str(file))[0]) if strength > 0 else None
        fields = sampling.fields(given) if sampling else {}
        if sampling and fields:
            name = adapter_name(str(file))
            return fields, f"{name} makes pictures fast ({sampling.name}): {in_words(fields)}"
    return {}, ""


def with_speed(shot: Shot, given: Collection[str]) -> tuple[Shot, str]:
    """The shot with what its speed adapter sets, see `speed_fields`."""
    fields, said = speed_fields(shot.adapters, given)
    if not fields:
        return shot, said
    return replace(shot, **fields), said  # pyright: ignore[reportArgumentType]


def negative_note(shot: Shot) -> str:
    """That a negative prompt does nothing; "" where it does something."""
    if shot.guidance > 1 or not shot.negative:
        return ""
    return f"the negative prompt does nothing where the guidance is {shot.guidance:g}"
