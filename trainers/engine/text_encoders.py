"""Train the text encoders and new tokens, where the recipe asks for it.

With `text_encoders` the kinds also change the text encoders: their attention and, if `targets` is
all, their feed-forward layers, as in kohya's trainer. Captions are then encoded at every step, by
`Base.encode_text` as for drawing. So gradients flow through everything that the UNet receives: the
hidden states and, for SDXL, the pooled projection.

With `new_tokens` the trigger's new word gets its own vectors, which are learned together with the
adapter ("pivotal tuning", Roich et al. 2021, arXiv 2106.05744, as cloneofsimo's lora applied it to
text). The new word is one in angle brackets, which no caption has by chance, or the one that
`token` names.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from studio.errors import BadInput

if TYPE_CHECKING:
    import torch
    from torch import nn

    from studio.bases.base import Base
    from studio.bases.prompts import PromptReading, TextEmbedding
    from studio.requests.recipe import Recipe

TEXT_ATTENTION = r"text_encoder(_2)?\..*\.self_attn\.(q|k|v|out)_proj"
TEXT_ALL = TEXT_ATTENTION + r"|text_encoder(_2)?\..*\.mlp\.fc[12]"
TOKEN = "token."  # prefix of a token's name among the names of trained modules
BRACKETED = re.compile(r"<[^<>\s]+>")
LAYER = re.compile(r"text_encoder\..*\.layers\.(\d+)\..*")


def is_layer_used(base: "Base", name: str, *, clip_skip: int | None) -> bool:
    """Whether the output of a text encoder's layer reaches the UNet.

    Layers after the one that clip skip selects would learn nothing. SDXL's second encoder is used
    to its end, where its pooled output comes from.
    """
    layer = LAYER.fullmatch(name)
    if layer is None:
        return True
    skip = clip_skip or (2 if base.family == "sdxl" else 1)
    return int(layer[1]) <= base.text_encoders[0].config.num_hidden_layers - skip


def new_tokens(trigger: str, recipe: "Recipe") -> tuple[str, ...]:
    """The words of the trigger that get embeddings. Raises BadInput where there should be one."""

    from studio.adapters.token_embeddings import contains_token  # late: it imports torch

    if not recipe.new_tokens:
        return ()
    if recipe.token is not None:
        if not contains_token(trigger, recipe.token):
            raise BadInput(
                f"token is {recipe.token!r}, but the trigger {trigger!r} has no such word: name "
                "one of the trigger's"
            )
        return (recipe.token,)
    words = tuple(dict.fromkeys(BRACKETED.findall(trigger)))
    if not words:
        raise BadInput(
            f"new_tokens asks for a new word, but the trigger {trigger!r} has none in angle "
            'brackets: write it so, as in "a <sks> robot", or name it with token'
        )
    return words


def new_embeddings(
    base: "Base",
    tokens: Sequence[str],
    recipe: "Recipe",
    captions: Sequence[str],
    *,
    generator: "torch.Generator",
) -> "dict[str, dict[str, nn.Parameter]]":
    """The initial vectors of the tokens, by token and text encoder: [n, width].

    Raises BadInput for a token that no caption has, or that leaves no room for other words.
    """
    from torch import nn

    from studio.adapters.token_embeddings import contains_token, initial_embedding

    for token in tokens:
        if not any(contains_token(caption, token) for caption in captions):
            raise BadInput(
                f"no caption has the word {token!r}, so nothing could be learned for it: write it "
                "into the captions, or leave them out for the trigger to take their place"
            )
    room = min(tokenizer.model_max_length for tokenizer in base.tokenizers) // 2
    if recipe.new_tokens * len(tokens) > room:
        raise BadInput(
            f"new_tokens is {recipe.new_tokens}, which leaves the captions too few of the "
            f"{2 * room} tokens that {base.name} reads: give at most {room // len(tokens)}"
        )
    return {
        token: {
            name: nn.Parameter(rows)
            for name, rows in initial_embedding(
                base.tokenizers,
                base.text_encoders,
                recipe.new_tokens,
                like=recipe.token_init,
                generator=generator,
            ).items()
        }
        for token in tokens
    }


def encode_captions(
    base: "Base", captions: Sequence[str], *, reading: "PromptReading", pieces: int
) -> "TextEmbedding":
    """The captions of a step, with gradients: hidden [B, L, D] and pooled [B, P] or None.

    Equal captions are encoded once. An empty caption gives what an empty prompt gives.
    pieces: the number of pieces that each caption is encoded in.
    """
    from studio.bases.prompts import TextEmbedding

    distinct = list(dict.fromkeys(captions))
    rows = [distinct.index(caption) for caption in captions]
    text = base.encode_text(distinct, reading=reading, pieces=pieces)
    hidden, pooled = text.hidden[rows], None if text.pooled is None else text.pooled[rows]
    if base.zero_negative and "" in captions:
        not_empty = hidden.new_tensor([[float(caption != "")] for caption in captions])  # -> [B, 1]
        hidden = hidden * not_empty[..., None]
        pooled = None if pooled is None else pooled * not_empty
    return TextEmbedding(hidden, pooled)
