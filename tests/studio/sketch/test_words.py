"""The tokenizer knows every word of the world, and spells what it doesn't know."""

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from studio.sketch import captions
from studio.sketch import scenes as world
from studio.sketch.tokenizer import MAX_TOKENS, learn_tokenizer, tokenize


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return learn_tokenizer(captions=6000)


def test_every_word_of_the_world_is_one_token(tokenizer: CLIPTokenizer) -> None:
    phrases = [
        p for table in (captions.PLACES, captions.STYLES) for ps in table.values() for p in ps
    ]
    names = (world.SUBJECTS, world.COLOURS, world.WALLS, world.WORN, world.HELD)
    words = {w for one in (*phrases, *(n for table in names for n in table)) for w in one.split()}
    spelled = {word: tokenizer.tokenize(word) for word in words if word.isalpha()}
    assert {word: pieces for word, pieces in spelled.items() if pieces != [f"{word}</w>"]} == {}


def test_other_words_are_spelled_and_kept_apart(tokenizer: CLIPTokenizer) -> None:
    assert "".join(tokenizer.tokenize("sks xqz7é")).replace("</w>", " ").split()[0] == "sks"
    assert tokenizer.unk_token_id not in tokenizer("sks xqz7é!").input_ids[1:-1]
    one, two = tokenizer("a sks cat").input_ids, tokenizer("a xqz cat").input_ids
    assert one != two and one[:2] == two[:2] and one[-2:] == two[-2:]


def test_a_saved_tokenizer_reads_the_same(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    texts = ["A Red cat, in space", "sks robot", ""]
    assert (tokenize(again, texts) == tokenize(tokenizer, texts)).all()


def test_texts_are_padded_and_cut_to_one_length(tokenizer: CLIPTokenizer) -> None:
    short, long, none = tokenize(tokenizer, ["a cat", "cat " * 100, ""])
    assert short.shape == long.shape == (MAX_TOKENS,)
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert short[0] == start and (short[3:] == end).all()
    assert long[-1] == end and (long[1:-1] == short[2]).all()
    assert none[0] == start and (none[1:] == end).all()
