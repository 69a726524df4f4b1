"""How much each adapter's trigger words change the text embedding of a prompt.

W-Switch and W-Composite (arXiv 2606.03792) divide steps and weights by the effect of leaving an
adapter's trigger words out of the prompt; their code is not published. How the effect is measured
is our choice: 1 minus the cosine similarity of the means over all tokens, with the base's own text
encoders.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from compose.engine.method import Method, WeighedMethod, needs_text
from studio.bases.prompts import PromptReading
from studio.errors import BadInput
from studio.requests.trigger_words import said_trigger, unsaid, without

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter
    from studio.bases.base import Base
    from studio.requests.shot import Shot


def weighed_method(
    method: Method, base: "Base", shot: "Shot", adapters: "Sequence[Adapter]"
) -> Method:
    """The method; where it weighs by trigger words, with the weights that they give."""
    if not adapters or not needs_text(method):
        return method
    assert isinstance(method, WeighedMethod)
    return method.weighed(trigger_effects(base, shot, adapters))


def trigger_effects(base: "Base", shot: "Shot", adapters: "Sequence[Adapter]") -> tuple[float, ...]:
    """The effect of each adapter's trigger words, 0 or more.

    Raises BadInput for an adapter whose trigger words are not in the prompt.
    """
    texts = [shot.prompt, *(_without(shot.prompt, one) for one in adapters)]
    learned = {word: rows for one in adapters for word, rows in one.embeddings.items()}
    reading = PromptReading(shot.syntax, shot.clip_skip)
    with torch.no_grad(), base.use_embeddings(learned):
        whole, *ablated = base.encode_text(texts, reading=reading).hidden.float().mean(1)
    return tuple(max(0.0, 1 - float(F.cosine_similarity(whole, one, dim=0))) for one in ablated)


def _without(prompt: str, adapter: "Adapter") -> str:
    """The prompt without the trigger words of an adapter."""
    said = said_trigger(adapter, prompt)
    if said is None:
        raise BadInput(f"weigh: {unsaid(adapter)}: add them, or give turns or weights yourself")
    return without(prompt, said)
