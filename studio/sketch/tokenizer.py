"""The tokenizer of the sketch bases: CLIP's byte-pair encoding, learned from the world's captions.

Every word of the captions is one token. Any other word is split into pieces, so an invented trigger
word such as "sks" has tokens too.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (the annotations of diffusers and transformers are too narrow)

import json
from collections import Counter

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from studio.sketch import captions as wordings
from studio.sketch.scenes import sample_any

MAX_TOKENS = 32
START, END = "<|startoftext|>", "<|endoftext|>"


def learn_tokenizer(*, captions: int = 20_000) -> CLIPTokenizer:
    """A CLIP tokenizer learned from random captions; each of their words is one token."""
    rng = np.random.default_rng(0)
    words = Counter(
        word for _ in range(captions) for word in wordings.wording(sample_any(rng), rng).split()
    )
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.train_from_iterator(
        (f"{word} " * min(count, 50) for word, count in sorted(words.items())),
        trainers.BpeTrainer(
            vocab_size=4000,
            min_frequency=1,
            end_of_word_suffix="</w>",
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return _clip_tokenizer(bpe)


def _clip_tokenizer(bpe: Tokenizer) -> CLIPTokenizer:
    """A CLIPTokenizer of the learned merges.

    Tokens are numbered as in CLIP: bytes, bytes that end a word, merges, start and end of text.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *map("".join, merges), START, END]
    return CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(dict.fromkeys(pieces))},
        merges=merges,
        model_max_length=MAX_TOKENS,
        pad_token=END,
    )


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> np.ndarray:
    """Token ids, int16 [N, MAX_TOKENS], padded or truncated to that length."""
    encoded = tokenizer(
        texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="np"
    )
    return encoded.input_ids.astype(np.int16)
