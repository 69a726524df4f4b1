"""Regions found by attention, during the first third of the steps.

FreeFuse (arXiv 2510.23515): with all adapters merged, each place of the picture attends to the
words of what it will show. The maps of compose/engine/regions/attention.py, averaged over the first
third of the steps, give a mask for each adapter. Then the picture is drawn from its first step with
these masks; it has the same bits as with the same masks drawn by hand.
"""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from compose.engine.regions.attention import Words, enlarged
from compose.engine.regions.concepts import Concept
from compose.engine.regions.found_masks import part
from studio.bases.base import Base
from studio.errors import BadInput
from studio.requests.prompt_syntax import PromptSyntax
from studio.requests.regions import mask_address
from studio.requests.validation import in_words


def places_of(base: Base, concepts: Sequence[Concept], prompt: str, syntax: PromptSyntax) -> Words:
    """The places of each concept's tokens in the encoded prompt.

    Raises BadInput for words whose tokens can't be found, as with a weight inside of the words.
    """
    return tuple(
        tuple(place for words in one.words for place in _places(base, words, prompt, syntax))
        for one in concepts
    )


def masks_of(maps: Sequence[Tensor], side: tuple[int, int]) -> list[str]:
    """The mask of each concept, as `mask_address` writes it.

    maps: the maps of each step, [N, h', w']. side: height and width of the latents.
    """
    mean = enlarged(torch.stack([*maps]).mean(0), side).double().cpu().numpy()
    owner = part(mean)
    return [mask_address(Image.fromarray(owner == at)) for at in range(len(mean))]


def _places(base: Base, words: str, prompt: str, syntax: PromptSyntax) -> list[int]:
    places = base.token_places(prompt, words, syntax)
    if not places:
        raise BadInput(
            f"regions: {in_words(words)} can't be found in the prompt: a weight stands inside of "
            "these words, or they lie where the prompt is cut"
        )
    return places
