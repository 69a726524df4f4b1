"""What is known of a base without opening it: told from its configuration, without PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from studio.bases.architecture import family_of, read_json
from studio.bases.names import BUNDLED_BASES, HUB_ID
from studio.errors import BadInput

__all__ = ["BaseInfo", "read_base_info"]

# Of a checkpoint in one file, which has no configuration; what diffusers takes them for.
SIZES = {"sd1": 512, "sd2": 768, "sdxl": 1024}
STEPS = {"sd1": 64, "sd2": 64, "sdxl": 32}


@dataclass(frozen=True)
class BaseInfo:
    """The fields are those of studio.Base of the same names."""

    source: str
    name: str
    family: str
    size: int
    step: int


def read_base_info(source: str) -> BaseInfo | None:
    """The base that `load_base` would open; None for one that is still to be downloaded.

    Raises BadInput for a folder or file that is no base of the families known.
    """
    place = _place(source)
    if place is None:
        return None
    family, name = family_of(place), place.name if place.is_dir() else place.stem
    if place.is_file():
        return BaseInfo(source, name, family, SIZES[family], STEPS[family])
    unet = cast("Any", read_json(place / "unet" / "config.json"))
    vae = cast("Any", read_json(place / "vae" / "config.json"))
    try:
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        size = int(unet["sample_size"]) * factor
        step = factor * 2 ** (len(unet["block_out_channels"]) - 1)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{place} does not say how large its pictures are") from error
    name = name if place.parent.name != "snapshots" else source
    return BaseInfo(source, name, family, size, step)


def _place(source: str) -> Path | None:
    from studio.bases.resolve import find_source  # the hub's client takes half a second

    if (
        source in BUNDLED_BASES
        or not HUB_ID.fullmatch(source)
        or Path(source).expanduser().exists()
    ):
        return find_source(source, half=False)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        kept = Path(snapshot_download(source, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None
    return kept if (kept / "unet" / "config.json").is_file() else None
