"""From a shot to its picture."""

import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal, overload

import torch
from PIL import Image
from torch import Tensor

from compose.engine.denoise import Done, denoise
from compose.engine.expected.drawing_memory import tiled_where_needed
from compose.engine.weights.render_cache import cache_of
from studio.errors import BadInput
from studio.requests.a1111 import parameters_text
from studio.requests.resolved_shot import ResolvedShot, resolve
from studio.requests.shot import Shot
from studio.requests.shot_recipe import recipe

if TYPE_CHECKING:
    from studio.bases.base import Base


@overload
def render(
    base: "Base", shot: Shot | ResolvedShot, *, output: Literal["picture"] = "picture"
) -> Image.Image: ...


@overload
def render(base: "Base", shot: Shot | ResolvedShot, *, output: Literal["latents"]) -> Tensor: ...


def render(
    base: "Base", shot: Shot | ResolvedShot, *, output: str = "picture"
) -> Image.Image | Tensor:
    """Make a shot's picture on a base.

    output: "picture" for an RGB picture whose `info` holds its recipe, which
    `studio.requests.picture_file.save_picture` writes into a PNG; "latents" for the latents
    [1, 4, h, w] float32 that the VAE would decode.

    Raises BadInput for a shot that can't be made on this base.
    """
    if output not in ("picture", "latents"):
        raise BadInput(f"output: {output!r} is neither picture nor latents.")
    resolved = resolve(shot, base)
    latents = None
    for progress in denoise(base, resolved):
        if isinstance(progress, Done):
            latents = progress.latents
    assert latents is not None
    return decode(base, resolved, latents) if output == "picture" else latents


def decode(
    base: "Base", shot: Shot | ResolvedShot, latents: Tensor, *, alone: bool = True
) -> Image.Image:
    """The picture of a shot's finished latents [1, 4, h, w], with its recipe in `info`.

    alone: see `Base.decode`. Raises BadInput for latents that are NaN or Inf.
    """
    if not torch.isfinite(latents).all():
        raise BadInput(
            "The picture contains NaN or Inf: lower the strengths of the adapters or the "
            f"guidance, or open the base in fp32 or bf16 (it is in {base.dtype})."
        )
    resolved = resolve(shot, base)
    turn = cache_of(base).lock if alone else nullcontext()  # it may move the other parts
    with turn, tiled_where_needed(base, resolved):
        pixels = base.decode(latents, alone=alone)[0].movedim(0, -1)
        made_by = recipe(resolved, base)  # inside, as it records whether the VAE works in tiles
    picture = Image.fromarray((pixels * 255).round().to(torch.uint8).cpu().numpy())
    last = resolved if resolved.enlarged is None else resolved.second()
    if last.mask is not None and last.init_image is not None:  # outside of the mask nothing changes
        picture = Image.composite(picture, last.init_image, last.mask)
    picture.info["parameters"] = parameters_text(resolved, base)
    picture.info["studio"] = json.dumps(made_by)
    return picture
