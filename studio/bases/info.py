"""Describe a base from its configuration alone, without PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from studio.bases.architecture import family_of, read_json
from studio.bases.names import BUNDLED_BASES, HUB_ID
from studio.errors import BadInput
from studio.files import display_name, expand_home, is_there

# diffusers' assumptions for a checkpoint in one file, which has no configuration.
SIZES = {"sd1": 512, "sd2": 768, "sdxl": 1024}
STEPS = {"sd1": 64, "sd2": 64, "sdxl": 32}


@dataclass(frozen=True)
class BaseInfo:
    """A base's description. The fields mean the same as those of studio.Base."""

    source: str
    name: str
    family: str
    size: int
    step: int
    latent_factor: int = 8


def read_base_info(source: str) -> BaseInfo | None:
    """Describe the base that `load_base` would open; None for one that is not downloaded yet.

    Raises BadInput for a folder or file that is no base of a known family.
    """
    path = find_local(source)
    if path is None:
        return None
    family, name = family_of(path), display_name(path)
    if path.is_file():
        return BaseInfo(source, name, family, SIZES[family], STEPS[family])
    unet = cast("Any", read_json(path / "unet" / "config.json"))
    vae = cast("Any", read_json(path / "vae" / "config.json"))
    try:
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        size = int(unet["sample_size"]) * factor
        step = factor * 2 ** (len(unet["block_out_channels"]) - 1)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path} does not say how large its pictures are") from error
    name = name if path.parent.name != "snapshots" else source
    return BaseInfo(source, name, family, size, step, factor)


def find_local(source: str) -> Path | None:
    """The folder or file of a base; None for one that is not downloaded yet."""
    from studio.bases.resolve import (  # the hub's client takes half a second
        cached_snapshot,
        find_source,
    )

    if source in BUNDLED_BASES or not HUB_ID.fullmatch(source) or is_there(expand_home(source)):
        return find_source(source, half=False)
    snapshot = cached_snapshot(source)
    return snapshot if snapshot and (snapshot / "unet" / "config.json").is_file() else None
