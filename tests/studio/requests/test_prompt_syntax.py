"""Weights and breaks in prompts, as A1111 reads them."""

import pytest

from studio.errors import BadInput
from studio.requests.prompt_syntax import escape, has_marks, read_prompt

# From the docstring of A1111's `parse_prompt_attention` (modules/prompt_parser.py).
OF_A1111 = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0),
        ("house", 1.5730000000000004),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641000000000006),
        (".", 1.1),
    ],
}


@pytest.mark.parametrize("prompt", OF_A1111)
def test_weights_are_those_of_a1111(prompt: str) -> None:
    assert read_prompt(prompt, "a1111") == [OF_A1111[prompt]]


@pytest.mark.parametrize("syntax", ["plain", "cut"])
def test_other_syntaxes_take_every_sign_as_part_of_a_word(syntax: str) -> None:
    prompt = r"a (red:1.2) \(cat\) BREAK [dog|cat] <lora:ink:1>"
    assert read_prompt(prompt, syntax) == [[(prompt, 1.0)]]  # pyright: ignore[reportArgumentType]


def test_break_begins_another_part_and_keeps_the_weight() -> None:
    assert read_prompt("a cat BREAK ink", "a1111") == [[("a cat", 1.0)], [("ink", 1.0)]]
    assert read_prompt("(a BREAK b:1.2) BREAKFAST", "a1111") == [
        [("a", 1.2)],
        [("b", 1.2), (" BREAKFAST", 1.0)],
    ]


@pytest.mark.parametrize("text", ["a: b", ":1.2)", "a)", "a] b", "x\\", "9:16", "(a:b)"])
def test_a_colon_or_a_lone_bracket_is_no_weight(text: str) -> None:
    inside = text.removeprefix("(").removesuffix(")") if text[0] == "(" else text
    (((read, weight),),) = read_prompt(text, "a1111")
    assert (read, weight) == (inside, 1.1 if text[0] == "(" else 1.0)


@pytest.mark.parametrize(
    "prompt", [*OF_A1111, "a BREAK b", "<lora:ink:1>", "\\", r"\(a\)", "[a|b]"]
)
def test_an_escaped_text_is_read_as_it_is(prompt: str) -> None:
    assert read_prompt(escape(prompt), "a1111") == [[(prompt, 1.0)]]


def test_marks_are_what_changes_the_reading() -> None:
    assert not has_marks("a red cat, 9:16")
    assert not has_marks("")
    assert all(map(has_marks, ("a (red) cat", "a BREAK b", r"a \(cat\)")))


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a <lora:ink:0.8> cat", "<lora:ink:0.8>"),
        ("a <LyCo:ink>", "<LyCo:ink>"),
        ("a [cat:dog:0.5]", "[cat:dog:0.5]"),
        ("a [dog:10]", "[dog:10]"),
        ("a [cat|dog]", "[cat|dog]"),
    ],
)
def test_what_can_not_be_done_is_refused_by_its_name(prompt: str, named: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_prompt(prompt, "a1111")
    assert named in str(caught.value)
