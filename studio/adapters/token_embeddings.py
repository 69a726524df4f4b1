"""Learned words: embeddings in addition to those of a base's text encoders.

Textual inversion (Gal et al. 2022, arXiv 2208.01618): a token in a prompt is replaced by one or
several learned vectors, [n, width] for each text encoder ("text_encoder", "text_encoder_2").

Neither the base's tokenizers nor its embedding tables change. A prompt is split at the tokens, the
text between is tokenized as usual, and learned vectors get negative ids, which only the lookup
here knows. So gradients reach the learned vectors alone. No id is above that of the end of the
text, so CLIP's pooled output is read at that end, as other programs do. (For SDXL's encoders
diffusers reads it at the learned token, because their configuration has the wrong end id.)

Tokens are found in upper and lower case, as tokenizers find added tokens. Where a token starts or
ends with a letter or digit, none may stand beside it, so that `sks` is not found in `masks`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from studio.errors import BadInput

if TYPE_CHECKING:  # transformers takes seconds, and adapters are opened without it
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    TextEncoder = CLIPTextModel | CLIPTextModelWithProjection

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
# Vectors by token and text encoder, each [n, width].
Embeddings = Mapping[str, Mapping[str, Tensor]]


def word_ids(
    tokenizer: "CLIPTokenizer", text: str, words: Mapping[str, Tensor]
) -> Iterator[list[int]]:
    """A text's token ids in order, without the tokens for its beginning and end.

    A list has one id, or all ids of a learned word. words: rows by token. Row k, counted over all
    words, has the id -1 - k.
    """
    if not words:
        yield from ([number] for number in _token_ids(tokenizer, text))
        return
    learned, count = {}, 0
    for token, rows in words.items():
        learned[token] = list(range(-1 - count, -1 - count - len(rows), -1))
        count += len(rows)
    tokens = sorted(words, key=len, reverse=True)
    end = 0
    for found in _token_pattern(tokens).finditer(text):
        assert found.lastindex
        yield from ([number] for number in _token_ids(tokenizer, text[end : found.start()]))
        yield learned[tokens[found.lastindex - 1]]
        end = found.end()
    yield from ([number] for number in _token_ids(tokenizer, text[end:]))


@contextmanager
def learned_rows(table: nn.Embedding, words: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block, look up negative ids in the rows of the words; see `word_ids`."""
    if not words:
        yield
        return
    rows = torch.cat([vectors.to(table.weight.device) for vectors in words.values()])
    vars(table)["forward"] = partial(_embed, table, rows)
    try:
        yield
    finally:
        del vars(table)["forward"]


def embedding_table(encoder: "TextEncoder") -> nn.Embedding:
    """A text encoder's own table of token embeddings."""
    table = encoder.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    return table


def contains_token(text: str, token: str) -> bool:
    """Whether the token occurs in the text."""
    return _token_pattern([token]).search(text) is not None


def initial_embedding(
    tokenizers: "Sequence[CLIPTokenizer]",
    text_encoders: "Sequence[TextEncoder]",
    vectors: int,
    *,
    like: str | None,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The vectors that a new token starts with, for each text encoder: [vectors, width], float32.

    like: start from these words' own embeddings, spread over the vectors as A1111 does. None: draw
    them at random with the table's standard deviation, as diffusers' advanced DreamBooth scripts.

    Raises BadInput where there is no word in `like`.
    """
    initial = {}
    for name, tokenizer, encoder in zip(TEXT_ENCODERS, tokenizers, text_encoders, strict=False):
        table = embedding_table(encoder).weight.detach().float()
        if like is None:
            drawn = torch.randn(vectors, table.shape[1], generator=generator)
            initial[name] = drawn.to(table.device) * table.std()
            continue
        numbers = _token_ids(tokenizer, like)
        if not numbers:
            raise BadInput(f"token_init is {like!r}, which holds no word to start from")
        initial[name] = table[
            [numbers[k * len(numbers) // vectors] for k in range(vectors)]
        ].clone()
    return initial


def _token_ids(tokenizer: "CLIPTokenizer", text: str) -> list[int]:
    numbers = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert isinstance(numbers, list)
    return numbers


def _token_pattern(tokens: Sequence[str]) -> re.Pattern[str]:
    """A pattern that matches any of the tokens; group n is token n - 1."""
    ways = []
    for token in tokens:
        before = r"(?<![^\W_])" if token[0].isalnum() else ""
        behind = r"(?![^\W_])" if token[-1].isalnum() else ""
        ways.append(f"({before}{re.escape(token)}{behind})")
    return re.compile("|".join(ways), re.IGNORECASE)


def _embed(table: nn.Embedding, rows: Tensor, numbers: Tensor) -> Tensor:
    known = nn.Embedding.forward(table, numbers.clamp(min=0))
    learned = rows.to(known.dtype)[(-1 - numbers).clamp(min=0)]
    return torch.where((numbers < 0)[..., None], learned, known)
