r"""The three ways in which a prompt can be read; no PyTorch here.

"a1111" reads the marks of AUTOMATIC1111's web UI (its wiki, Features, "Attention/emphasis"):

    (word)       weighs 1.1 times as much; brackets nest, so ((word)) weighs 1.21
    (word:1.3)   weighs 1.3 times as much
    [word]       weighs 1 / 1.1 times as much
    \( \[ \\     the character itself, not a mark
    BREAK        the next piece begins here

"plain" takes every character as text. "cut" does so too, and reads only as many tokens as one piece
holds: Studio's first versions read all prompts that way, and their recipes are still read so.
"""

import re
from collections.abc import Iterator, Sequence
from math import prod
from typing import Literal

from studio.errors import BadInput

PromptSyntax = Literal["a1111", "plain", "cut"]
# A text with its weight. A prompt is a list of these for each part between its BREAKs.
WeightedText = tuple[str, float]

LONGEST_PROMPT = 10_000  # characters; the embeddings of a million would fill the memory
BRACKET_FACTOR = 1.1
FACTORS = {"(": BRACKET_FACTOR, "[": 1 / BRACKET_FACTOR}
TOKEN = re.compile(
    r"""\\. | (?P<open>[(\[]) | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\) | (?P<close>[)\]])
    | \s*\b(?P<break>BREAK)\b\s* | .""",
    re.VERBOSE | re.DOTALL,
)
MARKS = re.compile(r"[\\()\[\]]|BREAK")  # a text without any of these has weight 1
ADAPTER_TAG = re.compile(r"(?<!\\)<(lora|lyco|hypernet):([^<>]*)>", re.IGNORECASE)
EMPTY_BETWEEN_COMMAS = re.compile(r"\s*,\s*(?=,|$)")
IN_BRACKETS = re.compile(r"(?<!\\)\[([^\[\]\\]*+)\]")
EDITED = re.compile(r"\||:\s*+[.\d]++\s*+$")  # shows that brackets are prompt editing


def read_prompt(text: str, syntax: PromptSyntax) -> list[list[WeightedText]]:
    """The texts of a prompt with their weights: one list for each part between BREAKs.

    Raises BadInput for an adapter's tag, for A1111's prompt editing and, unless the syntax is
    "cut", for a text of more than LONGEST_PROMPT characters.
    """
    if syntax != "cut" and len(text) > LONGEST_PROMPT:
        raise BadInput(
            f"a prompt of {len(text):,} characters is too long: {LONGEST_PROMPT:,} are the most"
        )
    if syntax != "a1111":
        return [[(text, 1.0)]]
    _check_readable(text)
    if text and not MARKS.search(text):  # most prompts; takes a hundredth of the time
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
    """The text without <lora:NAME:STRENGTH> tags, and each tag as ("lora", "NAME:STRENGTH")."""
    tags = ADAPTER_TAG.findall(text)
    if not tags:
        return text, []
    plain = " ".join(ADAPTER_TAG.sub("", text).split())
    return EMPTY_BETWEEN_COMMAS.sub("", plain).strip(), tags


def escape(text: str) -> str:
    """The text escaped, so that "a1111" reads it as "plain" reads the original."""
    return re.sub(r"[\\()\[\]]|<(?=\w+:)|\bBREAK\b", r"\\\g<0>", text)


def _check_readable(text: str) -> None:
    if tag := ADAPTER_TAG.search(text):
        raise BadInput(
            f"{tag[0]} names an adapter, and can stand only in the prompt of a picture: add the "
            "adapter otherwise, or take the tag out"
        )
    brackets = IN_BRACKETS.finditer(text)
    editing = next((match for match in brackets if EDITED.search(match[1])), None)
    if editing:
        raise BadInput(
            f"{editing[0]} changes the prompt during the steps (prompt editing), which Studio "
            rf"can't do: write \[ for the bracket itself, or take it out"
        )


def _weighted(text: str) -> Iterator[tuple[str | None, float]]:
    """Each character with its weight; None stands for BREAK."""
    tokens = list(TOKEN.finditer(text))
    factors, closing = _pair_brackets(tokens)
    open_factors: dict[int, float] = {}  # factors of the brackets that are open, by position
    for position, token in enumerate(tokens):
        if position in factors:
            open_factors[position] = factors[position]
        elif position in closing:
            del open_factors[closing[position]]
        else:
            # Inner brackets first, as A1111 multiplies.
            weight = prod(reversed(open_factors.values()), start=1.0)
            yield None if token["break"] else _unescaped(token[0]), weight


def _unescaped(character: str) -> str:
    return character[1] if character[0] == "\\" and len(character) == 2 else character


def _pair_brackets(tokens: Sequence[re.Match[str]]) -> tuple[dict[int, float], dict[int, int]]:
    """The factor of each opening bracket, and the opening bracket of each closing one.

    Brackets are given by their positions among the tokens. Round and square brackets are paired
    separately. A bracket that is not closed acts to the end of the prompt.
    """
    unpaired: dict[str, list[int]] = {"(": [], "[": []}
    factors: dict[int, float] = {}
    closing: dict[int, int] = {}
    for position, token in enumerate(tokens):
        if bracket := token["open"]:
            unpaired[bracket].append(position)
            factors[position] = FACTORS[bracket]
        elif token["close"] or token["weight"]:
            opened = unpaired["[" if token["close"] == "]" else "("]
            if opened:
                closing[position] = opened.pop()
                if token["weight"]:
                    factors[closing[position]] = float(token["weight"])
    return factors, closing
