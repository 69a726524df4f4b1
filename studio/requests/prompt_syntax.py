r"""The three ways in which a prompt can be read; no PyTorch here.

"a1111" reads the marks of AUTOMATIC1111's web UI (its wiki, Features, "Attention/emphasis"):

    (word)       weighs 1.1 times as much; brackets nest, so ((word)) weighs 1.21
    (word:1.3)   weighs 1.3 times as much
    [word]       weighs 1 / 1.1 times as much
    \( \[ \\     a sign without its meaning
    BREAK        the next piece begins here

"plain" takes every sign as part of a word. "cut" does so too, and reads only as many tokens as one
piece holds: Studio read all prompts that way before it knew the other two, and reads the recipes of
that time so.
"""

import re
from collections.abc import Iterator, Sequence
from math import prod
from typing import Literal

from studio.errors import BadInput

PromptSyntax = Literal["a1111", "plain", "cut"]
# A text with its weight. A prompt is a list of these for each part between its BREAKs.
WeightedText = tuple[str, float]

LONGEST_PROMPT = 10_000  # characters; one of a million would fill the memory with embeddings
BRACKET_FACTOR = 1.1
FACTORS = {"(": BRACKET_FACTOR, "[": 1 / BRACKET_FACTOR}
TOKEN = re.compile(
    r"""\\. | (?P<open>[(\[]) | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\) | (?P<close>[)\]])
    | \s*\b(?P<break>BREAK)\b\s* | .""",
    re.VERBOSE | re.DOTALL,
)
MARKS = re.compile(r"[\\()\[\]]|BREAK")  # without any of these all has weight 1
ADAPTER_TAG = re.compile(r"(?<!\\)<(lora|lyco|hypernet):([^<>]*)>", re.IGNORECASE)
EMPTY_BETWEEN_COMMAS = re.compile(r"\s*,\s*(?=,|$)")
IN_BRACKETS = re.compile(r"(?<!\\)\[([^\[\]\\]*+)\]")
EDITED = re.compile(r"\||:\s*+[.\d]++\s*+$")  # what stands in the brackets of prompt editing


def read_prompt(text: str, syntax: PromptSyntax) -> list[list[WeightedText]]:
    """The texts of a prompt with their weights, a list for each part between its BREAKs.

    Raises BadInput for a tag of an adapter, for A1111's prompt editing, and for a text of more than
    LONGEST_PROMPT characters that is read to its end.
    """
    if syntax != "cut" and len(text) > LONGEST_PROMPT:
        raise BadInput(
            f"a prompt of {len(text):,} characters is too long: {LONGEST_PROMPT:,} are the most"
        )
    if syntax != "a1111":
        return [[(text, 1.0)]]
    _check_readable(text)
    if text and not MARKS.search(text):  # as most prompts are; a hundredth of the time
        return [[(text, 1.0)]]
    parts: list[list[WeightedText]] = [[]]
    for piece, weight in _weighted(text):
        if piece is None:
            parts.append([])
        elif parts[-1] and parts[-1][-1][1] == weight:
            parts[-1][-1] = (parts[-1][-1][0] + piece, weight)
        else:
            parts[-1].append((piece, weight))
    return parts


def has_marks(text: str) -> bool:
    """Whether "a1111" reads a text otherwise than "plain" does."""
    return text != "" and read_prompt(text, "a1111") != [[(text, 1.0)]]


def split_adapter_tags(text: str) -> tuple[str, list[tuple[str, str]]]:
    """The text without its <lora:...> tags, and of each tag its first word and what follows."""
    tags = ADAPTER_TAG.findall(text)
    if not tags:
        return text, []
    plain = " ".join(ADAPTER_TAG.sub("", text).split())
    return EMPTY_BETWEEN_COMMAS.sub("", plain).strip(), tags


def escape(text: str) -> str:
    """A text that "a1111" reads as "plain" reads this one."""
    return re.sub(r"[\\()\[\]]|<(?=\w+:)|\bBREAK\b", r"\\\g<0>", text)


def _check_readable(text: str) -> None:
    if tag := ADAPTER_TAG.search(text):
        raise BadInput(
            f"{tag[0]} names an adapter, and can stand only in the prompt of a picture: add the "
            "adapter otherwise, or take the tag out"
        )
    editing = next((one for one in IN_BRACKETS.finditer(text) if EDITED.search(one[1])), None)
    if editing:
        raise BadInput(
            f"{editing[0]} changes the prompt during the steps (prompt editing), which Studio "
            rf"can't do: write \[ for the bracket itself, or take it out"
        )


def _weighted(text: str) -> Iterator[tuple[str | None, float]]:
    """Sign by sign with its weight; None stands for BREAK."""
    tokens = list(TOKEN.finditer(text))
    factors, closing = _pair_brackets(tokens)
    here: dict[int, float] = {}  # by their places, the factors of the brackets that are open
    for at, token in enumerate(tokens):
        if at in factors:
            here[at] = factors[at]
        elif at in closing:
            del here[closing[at]]
        else:
            # Inner brackets first, as A1111 multiplies.
            weight = prod(reversed(here.values()), start=1.0)
            yield None if token["break"] else _literal(token[0]), weight


def _literal(sign: str) -> str:
    return sign[1] if sign[0] == "\\" and len(sign) == 2 else sign


def _pair_brackets(tokens: Sequence[re.Match[str]]) -> tuple[dict[int, float], dict[int, int]]:
    """The factor of each opening bracket, and the opening bracket of each closing one.

    Both go by the places among the tokens. Round and square brackets are paired apart. What is
    not closed goes on to the end of the prompt.
    """
    waiting: dict[str, list[int]] = {"(": [], "[": []}
    factors: dict[int, float] = {}
    closing: dict[int, int] = {}
    for at, token in enumerate(tokens):
        if sign := token["open"]:
            waiting[sign].append(at)
            factors[at] = FACTORS[sign]
        elif token["close"] or token["weight"]:
            places = waiting["[" if token["close"] == "]" else "("]
            if places:
                closing[at] = places.pop()
                if token["weight"]:
                    factors[closing[at]] = float(token["weight"])
    return factors, closing
