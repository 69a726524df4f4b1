"""Split prompts into pieces of token ids, each as long as a text encoder reads: 75 in CLIP."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from studio.adapters.token_embeddings import word_ids
from studio.errors import BadInput
from studio.requests.prompt_syntax import PromptSyntax, read_prompt


@dataclass
class Piece:
    """Token ids and their weights, without the begin and end tokens."""

    numbers: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


def prompt_pieces(
    tokenizer: CLIPTokenizer, text: str, words: Mapping[str, Tensor], syntax: PromptSyntax
) -> list[Piece]:
    """The pieces of a prompt, at least one. A new piece begins at BREAK, or where one is full.

    words: the rows of learned words by token. The vectors of one word stay in one piece.
    Raises BadInput for a prompt that can't be read, and for a learned word longer than a piece.
    """
    room = room_of(tokenizer)
    if syntax == "cut":
        numbers = [*chain.from_iterable(word_ids(tokenizer, text, words))][:room]
        return [Piece(numbers, [1.0] * len(numbers))]
    pieces: list[Piece] = []
    for part in read_prompt(text, syntax):
        pieces.append(Piece())
        for words_read, weight in part:
            for numbers in word_ids(tokenizer, words_read, words):
                if len(numbers) > room:
                    raise BadInput(
                        f"a learned word is {len(numbers)} vectors long, and this base reads "
                        f"{room} at once: leave the word out"
                    )
                if len(pieces[-1].numbers) + len(numbers) > room:
                    pieces.append(Piece())
                pieces[-1].numbers += numbers
                pieces[-1].weights += [weight] * len(numbers)
    return pieces if pieces[-1].numbers or len(pieces) == 1 else pieces[:-1]


def token_places(
    tokenizer: CLIPTokenizer,
    text: str,
    wanted: str,
    words: Mapping[str, Tensor],
    syntax: PromptSyntax,
) -> list[int]:
    """The positions of the wanted words' tokens in an encoded prompt, for every occurrence.

    Positions count over all pieces of the prompt, with their begin and end tokens.
    """
    pieces = prompt_pieces(tokenizer, text, words, syntax)
    tokens = [
        (number, piece_index * tokenizer.model_max_length + 1 + index)
        for piece_index, piece in enumerate(pieces)
        for index, number in enumerate(piece.numbers)
    ]
    sought = [*chain.from_iterable(word_ids(tokenizer, wanted, words))]
    starts = range(len(tokens) - len(sought) + 1 if sought else 0)
    runs = (tokens[start : start + len(sought)] for start in starts)
    return sorted({place for run in runs if [n for n, _ in run] == sought for _, place in run})


def room_of(tokenizer: CLIPTokenizer) -> int:
    """How many tokens a piece holds, without the begin and end tokens."""
    return tokenizer.model_max_length - 2


def cut_tokens(tokenizer: CLIPTokenizer, text: str, words: Mapping[str, Tensor]) -> int:
    """How many of a prompt's tokens the syntax "cut" leaves out."""
    return max(0, sum(map(len, word_ids(tokenizer, text, words))) - room_of(tokenizer))


def stack_pieces(
    tokenizer: CLIPTokenizer, pieces: Sequence[Piece]
) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention mask (int64) and weights of N pieces, [N, L] each, padded.

    They include the begin and end tokens.
    """
    empty = tokenizer(
        "", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    begin, end = empty.input_ids[0, :2].tolist()
    numbers = empty.input_ids.repeat(len(pieces), 1)
    mask = empty.attention_mask.repeat(len(pieces), 1)
    weights = torch.ones(numbers.shape)
    for row, piece in enumerate(pieces):
        whole = torch.tensor([begin, *piece.numbers, end])
        numbers[row, : len(whole)] = whole
        mask[row, : len(whole)] = 1
        weights[row, 1 : len(whole) - 1] = torch.tensor(piece.weights)
    return numbers, mask, weights
