"""Words that a picture is to avoid, in two ways.

Perp-Neg (Armandpour et al. 2023, arXiv 2304.04968, equation 8; Perp-Neg/Perp-Neg-stablediffusion).
Let p = eps(prompt) - eps(negative), and n_k = eps(avoided text k) - eps(negative). Guidance goes
along p - w sum over k of (n_k - <n_k, p> / |p|^2 p), so that nothing of the prompt's own direction
is taken away. Here the inner products are taken for each picture, not over a batch, and the
negative prompt is evaluated once. Each avoided text costs one more row in the batch.

DECOR (arXiv 2412.09169): X - a X V V^T, where V are the right singular vectors of the avoided
words' embeddings; SDXL's pooled embedding is changed in the same way. It costs no evaluation. Our
deviation: the mean embedding of an empty text is subtracted before V is computed, as otherwise
the part that all words have in common would be removed too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from studio.bases.prompts import TextEmbedding

NO_SIZE = 1e-4  # singular values below this share of the largest are rounding errors


def perpendicular(avoided: Tensor, wanted: Tensor) -> Tensor:
    """The part of `avoided` that is perpendicular to `wanted`, for each picture.

    Both are [B, 4, h, w]. Where `wanted` is zero, all of `avoided`.
    """
    flat, along = avoided.flatten(1), wanted.flatten(1)
    common = (flat * along).sum(1) / along.square().sum(1).clamp_min(1e-12)
    return avoided - common.view(-1, 1, 1, 1) * wanted


def perp_neg(without: Tensor, prompted: Tensor, avoided: Sequence[Tensor], weight: float) -> Tensor:
    """The prompt's prediction, moved away from the avoided texts; all are [1, 4, h, w]."""
    wanted = prompted - without
    away = sum((perpendicular(one - without, wanted) for one in avoided), torch.zeros_like(wanted))
    return prompted - weight * away


def project_out(
    prompt: TextEmbedding,
    avoided: Sequence[tuple[TextEmbedding, int]],
    empty: TextEmbedding,
    strength: float,
) -> TextEmbedding:
    """A prompt's embedding [1, L, D] without its part in the span of the avoided texts.

    avoided: the embedding of each text and its number of tokens. empty: the embedding of an empty
    text. strength: a, from 0 to 1.
    """
    common = empty.hidden[0].float().mean(0)
    rows = [one.hidden[0, 1 : tokens + 1].float() - common for one, tokens in avoided]
    hidden = _less(prompt.hidden, torch.cat(rows), strength)
    if prompt.pooled is None or empty.pooled is None:
        return TextEmbedding(hidden)
    pooled = [one.pooled[0] - empty.pooled[0] for one, _ in avoided if one.pooled is not None]
    return TextEmbedding(hidden, _less(prompt.pooled, torch.stack(pooled).float(), strength))


def _less(embedding: Tensor, undesired: Tensor, strength: float) -> Tensor:
    """An embedding [..., D] without its part in the span of the vectors `undesired` [n, D]."""
    _, sizes, right = torch.linalg.svd(undesired, full_matrices=False)
    span = right[sizes > NO_SIZE * sizes[0]]
    wide = embedding.float()
    return (wide - strength * (wide @ span.T) @ span).to(embedding.dtype)
