"""Prompts -> text embeddings, as the diffusers pipelines compute them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from studio.adapters.token_embeddings import (
    TEXT_ENCODERS,
    Embeddings,
    embedding_table,
    learned_rows,
    token_numbers,
)

TextEncoder = CLIPTextModel | CLIPTextModelWithProjection
CLASSES = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


@dataclass(frozen=True, eq=False)
class TextEmbedding:
    """Encoded prompts. hidden: [B, L, D]; pooled: [B, P], SDXL only."""

    hidden: Tensor
    pooled: Tensor | None = None


def encode_prompts(
    texts: Sequence[str],
    tokenizers: Sequence[CLIPTokenizer],
    encoders: Sequence[TextEncoder],
    *,
    sdxl: bool,
    learned: Embeddings,
    device: torch.device,
) -> TextEmbedding:
    """Encode prompts; those longer than the model's length are cut.

    SDXL: the last layer but one of both encoders, side by side, and the second's pooled
    projection. SD: the last hidden state.

    texts: B prompts.  learned: the vectors of learned words, by token and text encoder.
    Returns hidden [B, L, D] and pooled [B, P] or None.
    """
    hidden: list[Tensor] = []
    pooled = None
    for name, tokenizer, encoder in zip(TEXT_ENCODERS, tokenizers, encoders, strict=False):
        words = {token: rows[name] for token, rows in learned.items() if name in rows}
        numbers, mask = token_numbers(tokenizer, texts, words)
        masked = getattr(encoder.config, "use_attention_mask", False)
        with learned_rows(embedding_table(encoder), words):
            output = encoder(
                numbers.to(device),
                attention_mask=mask.to(device) if masked else None,
                output_hidden_states=sdxl,
            )
        hidden.append(output.hidden_states[-2] if sdxl else output.last_hidden_state)
        if sdxl and isinstance(encoder, CLIPTextModelWithProjection):
            pooled = output.text_embeds
    return TextEmbedding(torch.cat(hidden, dim=-1), pooled)
