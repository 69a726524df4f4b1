"""Split prompts into pieces of token ids, each as long as a text encoder reads: 75 in CLIP."""

from collections.abc import Iterator, Mapping, Sequence
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


@dataclass(frozen=True)
class PromptReader:
    """A tokenizer with learned words. words: the rows of each by its token."""

    tokenizer: CLIPTokenizer
    words: Mapping[str, Tensor]

    @property
    def room(self) -> int:
        """How many tokens a piece holds, without the begin and end tokens."""
        return self.tokenizer.model_max_length - 2

    def pieces(self, text: str, syntax: PromptSyntax) -> list[Piece]:
        """The pieces of a prompt, at least one. A new piece begins at BREAK, or where one is full.

        The vectors of one learned word stay in one piece. Raises BadInput for a prompt that can't
        be read, and for a learned word longer than a piece.
        """
        if syntax == "cut":
            numbers = [*chain.from_iterable(self._ids(text))][: self.room]
            return [Piece(numbers, [1.0] * len(numbers))]
        pieces: list[Piece] = []
        for part in read_prompt(text, syntax):
            pieces.append(Piece())
            for words_read, weight in part:
                for numbers in self._ids(words_read):
                    if len(numbers) > self.room:
                        raise BadInput(
                            f"a learned word is {len(numbers)} vectors long, and this base reads "
                            f"{self.room} at once: leave the word out"
                        )
                    if len(pieces[-1].numbers) + len(numbers) > self.room:
                        pieces.append(Piece())
                    pieces[-1].numbers += numbers
                    pieces[-1].weights += [weight] * len(numbers)
        return pieces if pieces[-1].numbers or len(pieces) == 1 else pieces[:-1]

    def places(self, text: str, wanted: str, syntax: PromptSyntax) -> list[int]:
        """The positions of the wanted words' tokens in an encoded prompt, for every occurrence.

        Positions count over all pieces of the prompt, with their begin and end tokens.
        """
        tokens = [
            (number, piece_index * self.tokenizer.model_max_length + 1 + index)
            for piece_index, piece in enumerate(self.pieces(text, syntax))
            for index, number in enumerate(piece.numbers)
        ]
        sought = [*chain.from_iterable(self._ids(wanted))]
        starts = range(len(tokens) - len(sought) + 1 if sought else 0)
        runs = (tokens[start : start + len(sought)] for start in starts)
        return sorted({place for run in runs if [n for n, _ in run] == sought for _, place in run})

    def count_cut(self, text: str) -> int:
        """How many of a prompt's tokens the syntax "cut" leaves out."""
        return max(0, sum(map(len, self._ids(text))) - self.room)

    def stack(self, pieces: Sequence[Piece]) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids, attention mask (int64) and weights of N pieces, [N, L] each, padded.

        They include the begin and end tokens.
        """
        length = self.tokenizer.model_max_length
        empty = self.tokenizer("", padding="max_length", max_length=length, return_tensors="pt")
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

    def _ids(self, text: str) -> Iterator[list[int]]:
        return word_ids(self.tokenizer, text, self.words)
