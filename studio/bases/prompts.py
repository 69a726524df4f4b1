"""Prompts -> text embeddings, as the diffusers pipelines and A1111 compute them.

A prompt is encoded in pieces (studio/bases/prompt_pieces.py), whose embeddings are concatenated.
A word's weight multiplies its embeddings. A1111 then scales all embeddings of the prompt to restore
their mean, unless its emphasis is set to "No norm". Studio does as "No norm" does: that mean may be
near zero, and then a weight on one word would scale the whole prompt by an arbitrary factor. The
pooled embedding is that of the first piece, without weights, as in A1111.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from studio.adapters.token_embeddings import embedding_table, learned_rows
from studio.bases.prompt_pieces import Piece, PromptReader
from studio.requests.prompt_syntax import PromptSyntax

TextEncoder = CLIPTextModel | CLIPTextModelWithProjection
CLASSES = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


@dataclass(frozen=True, eq=False)
class TextEmbedding:
    """Encoded prompts. hidden: [B, L, D]; pooled: [B, P], SDXL only."""

    hidden: Tensor
    pooled: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return self.hidden.nbytes + (0 if self.pooled is None else self.pooled.nbytes)

    @classmethod
    def joined(cls, texts: Iterable["TextEmbedding"]) -> "TextEmbedding":
        """Several embeddings as one, concatenated along B; all must have the same L."""
        texts = list(texts)
        pooled = [text.pooled for text in texts if text.pooled is not None]
        hidden = torch.cat([text.hidden for text in texts])
        return cls(hidden, torch.cat(pooled) if pooled else None)


@dataclass(frozen=True)
class PromptReading:
    """How prompts become embeddings.

    syntax: see studio/requests/prompt_syntax.py. clip_skip: the layer of the text encoders to use,
    counted from the end as A1111 counts: 1 is the last layer. None is the base's own, 1 in SD and 2
    in SDXL.
    """

    syntax: PromptSyntax = "plain"
    clip_skip: int | None = None


PLAIN = PromptReading()


@dataclass(frozen=True)
class TextReader(PromptReader):
    """A text encoder with its tokenizer."""

    encoder: TextEncoder

    def encode(
        self, pieces: Sequence[Piece], *, device: torch.device, sdxl: bool, clip_skip: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """The weighted embeddings of N pieces, [N, L, D], and the pooled ones, [N, P] or None."""
        numbers, mask, weights = self.stack(pieces)
        masked = getattr(self.encoder.config, "use_attention_mask", False)
        with learned_rows(embedding_table(self.encoder), self.words):
            output = self.encoder(
                numbers.to(device),
                attention_mask=mask.to(device) if masked else None,
                output_hidden_states=sdxl or clip_skip is not None,
            )
        if sdxl:
            hidden = output.hidden_states[-(clip_skip or 2)]
        elif clip_skip is None:
            hidden = output.last_hidden_state
        else:
            norm = getattr(self.encoder, "text_model", self.encoder).final_layer_norm
            assert isinstance(norm, nn.LayerNorm)
            hidden = norm(output.hidden_states[-clip_skip])
        if (weights != 1).any():
            hidden = hidden * weights.to(device, hidden.dtype)[..., None]
        return hidden, output.get("text_embeds")


def encode_prompts(
    texts: Sequence[str],
    readers: Sequence[TextReader],
    *,
    sdxl: bool,
    device: torch.device,
    reading: PromptReading,
    pieces: int,
) -> TextEmbedding:
    """Encode prompts, each in as many pieces as it needs.

    SDXL: the last layer but one of both encoders, concatenated, and the second's pooled
    projection. SD: the last hidden state. `PromptReading.clip_skip` selects another layer.

    texts: B prompts. All are padded with empty pieces to the longest, and to `pieces` at least.
    Returns hidden [B, pieces * L, D] and pooled [B, P] or None. Raises BadInput for a prompt that
    can't be read.
    """
    prompts_of = [[one.pieces(text, reading.syntax) for text in texts] for one in readers]
    pieces = max(pieces, *map(len, chain.from_iterable(prompts_of)))
    hidden: list[Tensor] = []
    pooled = None
    for reader, prompts in zip(readers, prompts_of, strict=True):
        padded = [piece for p in prompts for piece in (p + [Piece()] * pieces)[:pieces]]
        states, projected = reader.encode(
            padded, device=device, sdxl=sdxl, clip_skip=reading.clip_skip
        )
        hidden.append(states.reshape(len(texts), -1, states.shape[-1]))
        if sdxl and projected is not None:
            pooled = projected[::pieces]
    return TextEmbedding(torch.cat(hidden, dim=-1), pooled)
