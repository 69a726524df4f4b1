"""Prompts, regions and `parameters` texts of any origin: a value comes out soon, or a sentence."""

import base64
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.errors import BadInput
from studio.requests.a1111 import parse_parameters
from studio.requests.prompt_syntax import escape, read_prompt, split_adapter_tags
from studio.requests.regions import DATA, open_mask, read_region
from studio.requests.shot import Shot
from tests.strangers import QUICK, soon

LONG = 400_000
# Each is a long way for a regular expression that looks at a sign more than once.
HOSTILE = {
    "a word": "a" * LONG,
    "spaces": "a\n" + " " * LONG + "x",
    "spaces behind a tag": "<lora:a:1>" + " " * LONG + "x",
    "quotes": "a\n" + 'a: "\\' * (LONG // 5),
    "alternatives": "[" + "|" * LONG,
    "weights": "(a:" * (LONG // 3),
    "backslashes": "\\" * LONG,
    "tags": "<lora:a:" * (LONG // 8),
    "digits": f"a\nSteps: 20, Seed: {'9' * 5000}, Size: {'9' * 5000}x8, CFG scale: {'9' * 5000}",
}
SIGNS = st.text("()[]<>{}:,|.\"'\\@ \nab19_", max_size=60) | st.text(max_size=40)
LINE = st.lists(st.tuples(SIGNS, SIGNS), max_size=4).map(
    lambda pairs: ", ".join(f"{key}: {value}" for key, value in pairs)
)


def read_all(text: str) -> None:
    """Whatever reads a text of somebody else."""
    recipe, problems = parse_parameters(text)
    assert all(isinstance(one, str) for one in problems)
    plain = ("prompt", "negative", "seed", "steps", "guidance", "width", "height", "syntax")
    shot = Shot(**{name: recipe[name] for name in plain if name in recipe})  # type: ignore[arg-type]
    for read in (shot.check, lambda: read_prompt(text, "a1111"), lambda: read_region(text)):
        try:
            read()
        except BadInput as error:
            assert 0 < len(str(error)) < 1000
    split_adapter_tags(text)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_long_text_is_read_or_refused_soon(name: str) -> None:
    with soon():
        read_all(HOSTILE[name])


@QUICK
@given(SIGNS)
def test_any_text_is_a_prompt_or_a_sentence(text: str) -> None:
    read_all(text)
    assert read_prompt(escape(text), "a1111") == [[(text, 1.0)] if text else []]


@QUICK
@given(SIGNS, LINE)
def test_any_parameters_are_read_or_said(prompt: str, line: str) -> None:
    read_all(f"{prompt}\nSteps: 20, {line}")


def png(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and holds next to nothing."""
    parts = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0),)
    parts += (b"IDAT" + zlib.compress(b"\0"), b"IEND")
    chunks = (
        struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [200, 12_000, 60_000])
def test_a_mask_that_would_fill_the_memory_is_refused(side: int) -> None:
    with pytest.raises(BadInput, match="the mask of a region is "):
        open_mask(DATA + base64.b64encode(png(side, side)).decode())


@pytest.mark.parametrize("name", ["regions", "avoid"])
def test_more_regions_or_words_than_a_picture_can_have_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match=f"{name}: there are 1,000, and 32 are the most"):
        Shot("a cat", **{name: ("0,0,1,1",) * 1000}).check()  # type: ignore[arg-type]


def test_a_prompt_is_not_endless() -> None:
    Shot("a cat, " * 1400).check()
    with pytest.raises(BadInput, match=r"prompt: a prompt of 14,000 characters is too long"):
        Shot("a cat, " * 2000).check()
    Shot("a cat, " * 2000, syntax="cut").check()  # reads the beginning alone
