"""JSON and TOML of any origin: a value comes out, or a sentence that says what is wrong."""

import json
import tomllib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

from studio.errors import BadInput
from studio.json_value import parse_json
from studio.requests.picture_file import read_recipe
from studio.requests.training import read_request
from studio.toml_text import InvalidToml, parse_toml
from studio.training_log import parse_log
from trainers.engine.run.checkpoint import TrainingState
from trainers.engine.run.folder import Run

DIGITS = "9" * 5000
DEEP = "[" * 300 + "]" * 300
HOSTILE = [DIGITS, DEEP, "[" * 100_000, "", "{", "nothing", '{"a": ' * 200 + "1" + "}" * 200]
QUICK = settings(max_examples=60, deadline=None)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@QUICK
@given(values)
def test_json_is_read_as_the_library_reads_it(value: object) -> None:
    text = json.dumps(value)
    assert repr(parse_json(text, "it")) == repr(json.loads(text))


@QUICK
@given(st.text(max_size=40) | st.text('{}[]",:0123456789.eE-\\u ', max_size=40))
def test_any_text_is_json_or_a_sentence(text: str) -> None:
    try:
        parse_json(text, "this text")
    except BadInput as error:
        assert str(error).startswith("this text is not JSON: ")


@QUICK
@given(st.text(max_size=40) | st.text('[]{}="\n#a.1 ', max_size=40))
def test_any_text_is_toml_or_a_sentence_with_its_line(text: str) -> None:
    try:
        assert parse_toml(text) == tomllib.loads(text)
    except InvalidToml as error:
        assert 1 <= error.line <= text.count("\n") + 1 and str(error)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_json_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="this text is not JSON: "):
        parse_json(text, "this text")


def test_halves_of_characters_are_replaced() -> None:
    assert parse_json(r'{"a\ud800": "\udc00 \ud83d\ude00"}', "it") == {"a?": "? \U0001f600"}


@pytest.mark.parametrize("value", [f"0x{'f' * 9000}", DIGITS, DEEP])
def test_a_recipe_of_hostile_values_is_refused(tmp_path: Path, value: str) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'kind = "lora"\ntrigger = "a"\npictures = "p"\n[recipe]\nsteps = {value}\n')
    with pytest.raises(BadInput, match=r"recipe\.toml"):
        read_request(recipe)


@pytest.mark.parametrize("text", [*HOSTILE, "[]", "{}", f'{{"version": {DIGITS}}}'])
def test_a_pictures_hostile_recipe_is_refused(tmp_path: Path, text: str) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("studio", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=texts)
    with pytest.raises(BadInput, match=r"The recipe in .*a\.png is damaged"):
        read_recipe(tmp_path / "a.png")


@pytest.mark.parametrize("line", HOSTILE)
def test_a_hostile_line_of_a_log_is_left_out(line: str) -> None:
    whole = b'{"step": 1, "loss": 0.5}\n'
    log = parse_log(whole + line.encode() + b"\n" + whole)
    assert len(log.lines) == 2 and log.unreadable == 1


@pytest.mark.parametrize("state", [*HOSTILE, "[]", "{}", '{"slots": [], "groups": 3}'])
def test_a_checkpoint_of_hostile_state_is_refused(tmp_path: Path, state: str) -> None:
    layer = torch.nn.Linear(2, 2)
    training = TrainingState({"layer": layer}, torch.optim.SGD(layer.parameters()), None)
    (tmp_path / "state.json").write_text(state)
    save_file(training.tensors(), tmp_path / "state.safetensors")
    with pytest.raises(BadInput, match=r"checkpoint .* is damaged"):
        Run(tmp_path).load_checkpoint(tmp_path, training)


def test_a_message_obeys_no_file_that_it_quotes() -> None:
    assert str(BadInput("a\x1b[2Jb\x9b\ud800\nc")) == "a\ufffd[2Jb\ufffd\ufffd\nc"
