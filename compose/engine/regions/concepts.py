"""The words of a prompt by which regions are found, and the prompt of each region.

A region's prompt leaves out the words of the other regions. The region does not have their
adapters, so it would draw those words as the base knows them, in the middle of its own subject.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from studio.errors import BadInput
from studio.requests.regions import FOUND, Region
from studio.requests.trigger_words import said_trigger, says, unsaid, without
from studio.requests.validation import in_words

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter


@dataclass(frozen=True)
class Concept:
    """What a region shows. words: texts within the shot's prompt.  prompt: the region's own."""

    words: tuple[str, ...]
    prompt: str


def concepts_of(
    regions: Sequence[Region],
    places: Sequence[Sequence[int]],
    adapters: "Sequence[Adapter]",
    prompt: str,
) -> tuple[Concept, ...]:
    """The concept of each region. places: the places of each region's adapters, from 0.

    Raises BadInput for a region whose words are not in the prompt, or are those of another region.
    """
    words: list[tuple[str, ...]] = []
    for number, (region, own) in enumerate(zip(regions, places, strict=True), start=1):
        its_words = _words(number, region, [adapters[at] for at in own], prompt)
        if its_words in words:
            raise BadInput(
                f"regions: {words.index(its_words) + 1} and {number} are both found by "
                f"{its_words[0]!r}: say which other words show one of them, as in "
                f'"{FOUND} a cat@{number}"'
            )
        words.append(its_words)
    return tuple(
        Concept(own, region.prompt or _left(prompt, words, own))
        for region, own in zip(regions, words, strict=True)
    )


def _words(
    number: int, region: Region, adapters: "Sequence[Adapter]", prompt: str
) -> tuple[str, ...]:
    if region.words:
        if not says(prompt, region.words):
            raise BadInput(
                f"regions: the prompt does not say {in_words(region.words)}, by which region "
                f"{number} is to be found: add these words to it"
            )
        return (region.words,)
    if not adapters:
        raise BadInput(
            f"regions: {number} has no adapter whose trigger words could be looked for: say which "
            f'words of the prompt show it, as in "{FOUND} a cat@"'
        )
    return tuple(_trigger(adapter, prompt) for adapter in adapters)


def _trigger(adapter: "Adapter", prompt: str) -> str:
    trigger = said_trigger(adapter, prompt)
    if trigger is None:
        raise BadInput(
            f"regions: {unsaid(adapter)}: add them, or say which words of the prompt show it, as "
            f'in "{FOUND} a cat@1". An adapter that is to be everywhere, such as a style, has no '
            f"region: name the others only, as in {FOUND}@1 and {FOUND}@2"
        )
    return trigger


def _left(prompt: str, words: Sequence[Sequence[str]], own: Sequence[str]) -> str:
    """The prompt without the words of other regions, unless they are part of this region's own."""
    others = {one for each in words for one in each if not any(says(mine, one) for mine in own)}
    for other in sorted(others, key=len, reverse=True):
        prompt = without(prompt, other)
    return prompt
