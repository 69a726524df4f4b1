"""Words that a picture is to avoid, in two ways.

Perp-Neg (Armandpour et al. 2023, arXiv 2304.04968, equation 8; Perp-Neg/Perp-Neg-stablediffusion):
with p = eps(prompt) - eps(negative) and n_k the same of each avoided text, guidance goes along
p - w sum over k of (n_k - <n_k, p> / |p|^2 p), so that what an avoided text has in common with the
prompt is not taken away. Here the products are of each picture by itself, not of a batch, and the
negative prompt is evaluated once. It costs a row of the batch for each text.

DECOR (arXiv 2412.09169): X - a X V V^T, V the right singular vectors of the avoided words'
embeddings, and the same of SDXL's pooled embedding. It costs nothing. Ours: V is of the embeddings
less the mean one of an empty text, as otherwise what all words have in common would go.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from studio.bases.prompts import TextEmbedding

NO_SIZE = 1e-4  # of the largest singular value: smaller ones are rounding


def perpendicular(avoided: Tensor, wanted: Tensor) -> Tensor:
    """What is perpendicular to `wanted`, of each picture by itself; all where that is zero.

    Both are [B, 4, h, w].
    """
    flat, along = avoided.flatten(1), wanted.flatten(1)
    common = (flat * along).sum(1) / along.square().sum(1).clamp_min(1e-12)
    return avoided - common.view(-1, 1, 1, 1) * wanted


def perp_neg(without: Tensor, prompted: Tensor, avoided: Sequence[Tensor], weight: float) -> Tensor:
    """What takes the place of the prompt's prediction; all are [1, 4, h, w]."""
    wanted = prompted - without
    away = sum((perpendicular(one - without, wanted) for one in avoided), torch.zeros_like(wanted))
    return prompted - weight * away


def project_out(
    prompt: TextEmbedding,
    avoided: Sequence[tuple[TextEmbedding, int]],
    empty: TextEmbedding,
    strength: float,
) -> TextEmbedding:
    """A prompt [1, L, D] without the span of the avoided texts, each with its number of tokens.

    empty: the embedding of an empty text. strength: a, from 0 to 1.
    """
    common = empty.hidden[0].float().mean(0)
    rows = [one.hidden[0, 1 : tokens + 1].float() - common for one, tokens in avoided]
    hidden = _less(prompt.hidden, torch.cat(rows), strength)
    if prompt.pooled is None or empty.pooled is None:
        return TextEmbedding(hidden)
    pooled = [one.pooled[0] - empty.pooled[0] for one, _ in avoided if one.pooled is not None]
    return TextEmbedding(hidden, _less(prompt.pooled, torch.stack(pooled).float(), strength))


def _less(embedding: Tensor, undesired: Tensor, strength: float) -> Tensor:
    """An embedding [..., D] less its share in the span of some vectors [n, D]."""
    _, sizes, right = torch.linalg.svd(undesired, full_matrices=False)
    span = right[sizes > NO_SIZE * sizes[0]]
    wide = embedding.float()
    return (wide - strength * (wide @ span.T) @ span).to(embedding.dtype)
