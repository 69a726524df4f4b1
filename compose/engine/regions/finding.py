"""Regions found by attention, in the first third of the steps, which are drawn once more then.

FreeFuse (arXiv 2510.23515): with all adapters merged, places attend to the words of what they
become. After a third of the steps that tells a mask for each adapter, and the picture is drawn from
its start with these masks. Maps are those of compose/engine/regions/attention.py, the mean over the
steps. From there on the shot is one whose regions were drawn so by hand, and gives the same bits.
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
    """Of each concept the places of its tokens in the encoded prompt.

    Raises BadInput for words of which the prompt has no tokens, as a mark parts them.
    """
    return tuple(
        tuple(place for words in one.words for place in _places(base, words, prompt, syntax))
        for one in concepts
    )


def masks_of(maps: Sequence[Tensor], side: tuple[int, int]) -> list[str]:
    """The mask of each concept, as `mask_address` writes it. maps: of each step, [N, h', w'].

    side: height and width of the latents.
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
