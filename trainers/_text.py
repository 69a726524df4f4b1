"""What a training does to the text encoders, where that is asked for.

With `text_encoders` the kinds change them too: their attention, and with `targets` all their
feed-forward layers, which are kohya's targets. Captions are then read anew at every step, through
`Base.encode_text` as when pictures are made, so that gradients reach whatever the UNet is given:
the hidden states and, for SDXL, the pooled projection.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studio.base import Base, Text

__all__ = ["TEXT_ALL", "TEXT_ATTENTION", "heard", "read_captions"]

TEXT_ATTENTION = r"text_encoder(_2)?\..*\.self_attn\.(q|k|v|out)_proj"
TEXT_ALL = TEXT_ATTENTION + r"|text_encoder(_2)?\..*\.mlp\.fc[12]"
LAYER = re.compile(r"text_encoder\..*\.layers\.(\d+)\..*")


def heard(base: "Base", name: str) -> bool:
    """Whether anything comes of a text encoder's layer.

    SDXL takes the last layer but one of its first encoder: what comes after it learns nothing.
    """
    found = LAYER.fullmatch(name)
    if base.family != "sdxl" or found is None:
        return True
    return int(found[1]) < base.text_encoders[0].config.num_hidden_layers - 1


def read_captions(base: "Base", captions: Sequence[str]) -> "Text":
    """The captions of a step, with gradients: hidden [B, L, D] and pooled [B, P] or None.

    Equal ones are encoded once. No caption is what no prompt is when pictures are made.
    """
    from studio.base import Text

    once = list(dict.fromkeys(captions))
    rows = [once.index(caption) for caption in captions]
    text = base.encode_text(once)
    hidden, pooled = text.hidden[rows], None if text.pooled is None else text.pooled[rows]
    if base.zero_negative and "" in captions:
        said = hidden.new_tensor([[float(caption != "")] for caption in captions])  # -> [B, 1]
        hidden = hidden * said[..., None]
        pooled = None if pooled is None else pooled * said
    return Text(hidden, pooled)
