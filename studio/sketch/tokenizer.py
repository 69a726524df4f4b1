"""The tokenizer of the sketch bases: CLIP's byte-pair encoding, learned from the world's captions.

Every word of the world becomes one token; any other word is still spelled, piece by piece, so a
made-up trigger such as "sks" has an encoding of its own.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (diffusers and transformers annotate what they take and give too narrowly)

import json
from collections import Counter

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from studio.sketch.corpus import everything
from studio.sketch.world import scenes as world

MAX_TOKENS = 32
START, END = "<|startoftext|>", "<|endoftext|>"


def learn_tokenizer(*, captions: int = 20_000) -> CLIPTokenizer:
    """A CLIP tokenizer whose vocabulary holds every word that the world's captions use."""
    rng = np.random.default_rng(0)
    words = Counter(
        word for _ in range(captions) for word in world.caption(everything(rng), rng).split()
    )
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learner.train_from_iterator(
        (f"{word} " * min(count, 50) for word, count in sorted(words.items())),
        trainers.BpeTrainer(
            vocab_size=4000,
            min_frequency=1,
            end_of_word_suffix="</w>",
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return _clip_tokenizer(learner)


def _clip_tokenizer(learner: Tokenizer) -> CLIPTokenizer:
    """Number the learned pieces as CLIP does: bytes, bytes that end a word, merges, specials."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *map("".join, merges), START, END]
    return CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(dict.fromkeys(pieces))},
        merges=merges,
        model_max_length=MAX_TOKENS,
        pad_token=END,
    )


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> np.ndarray:
    """Token numbers, int16 [N, MAX_TOKENS], padded and cut to length."""
    encoded = tokenizer(
        texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="np"
    )
    return encoded.input_ids.astype(np.int16)
