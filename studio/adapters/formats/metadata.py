"""Write and read the metadata of an adapter's file.

The entry `studio` holds everything as JSON. `modelspec.*` (Stability AI's ModelSpec 1.0.1) repeats
some of it for galleries. Files without `studio` are read from `modelspec.*` and kohya's `ss_*`.
"""

import base64
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from studio.adapters.rank_schedule import RankSchedule
from studio.errors import BadInput
from studio.json_value import JSON, parse_object
from studio.picture import opened_picture

FAMILIES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL"}
# A family, ModelSpec's architecture for it, and kohya's version. When read, a beginning is enough.
KNOWN = (
    ("sd1", "stable-diffusion-v1", "sd_v1"),
    ("sd2", "stable-diffusion-v2-512", "sd_v2"),
    ("sd2", "stable-diffusion-v2", "sd_v2"),
    ("sdxl", "stable-diffusion-xl-v1-base", "sdxl"),
    ("sdxl", "stable-diffusion-xl", "sdxl"),
)
VERSION = 1  # of the JSON under "studio"
# The entries of that JSON and their types. Each is named as a field of AdapterInfo.
STORED = {name: str for name in ("kind", "family", "base", "fingerprint", "name")}
STORED |= {"triggers": list, "recipe": dict}
RANKS = "rank_schedule"  # stored only where there is one
PREVIEW = 256  # pixels along the longer side of a preview that is written
LARGEST_PREVIEW = 1024  # pixels along the longer side of a preview that is read
LONGEST_RECIPE_ENTRY = 500  # characters; kohya's counts of tags and buckets are longer


@dataclass(frozen=True, eq=False, kw_only=True)
class AdapterInfo:
    """What an adapter is, without its tensors. `studio.adapters.adapter.Adapter` adds those.

    kind: one of trainers/, "unknown" for files of other programs.
    family: "sd1", "sd2", "sdxl", or "" where another program's file doesn't state it.
    base, fingerprint: the base that the adapter was trained on.
    rank_schedule: how many ranks of the UNet's changes act at each timestep; None for all of them.
    """

    kind: str = "unknown"
    family: str = ""
    base: str = ""
    fingerprint: str = ""
    triggers: tuple[str, ...] = ()
    recipe: dict[str, JSON] = field(default_factory=dict)
    preview: Image.Image | None = None
    name: str = ""
    rank_schedule: RankSchedule | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class AdapterOutline(AdapterInfo):
    """Takes the place of an Adapter where its tensors are not needed.

    deltas, embeddings: for each layer and each learned word, the keys of its tensors.
    """

    deltas: Mapping[str, Mapping[str, str]]
    embeddings: Mapping[str, Mapping[str, str]]
    half: str = ""
    path: Path


def trained_clip_skip(adapter: AdapterInfo) -> int | None:
    """The clip skip that the adapter was trained with, as A1111 counts; None for the base's own.

    Other programs' files have it as kohya's `ss_clip_skip`. For SDXL that entry is ignored, since
    kohya's training of SDXL ignores the option.
    """
    training = adapter.recipe.get("training")
    if isinstance(training, dict):
        stated = training.get("clip_skip")
    else:
        stated = None if adapter.family == "sdxl" else adapter.recipe.get("clip_skip")
    return int(str(stated)) if re.fullmatch("[0-9]{1,3}", str(stated)) else None


def adapter_metadata(adapter: AdapterInfo) -> dict[str, str]:
    """The metadata of a file that holds this adapter; equal adapters give equal metadata."""
    stored = {name: getattr(adapter, name) for name in STORED} | {"version": VERSION}
    if adapter.rank_schedule:
        stored[RANKS] = adapter.rank_schedule.plain()
    metadata = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "diffusers",
        "modelspec.title": adapter.name or adapter.kind,
        "studio": json.dumps(stored, sort_keys=True, ensure_ascii=False),
    }
    for family, architecture, _ in KNOWN:
        if family == adapter.family:
            metadata.setdefault("modelspec.architecture", f"{architecture}/lora")
    if adapter.triggers:
        metadata["modelspec.trigger_phrase"] = ", ".join(adapter.triggers)
    if adapter.preview is not None:
        metadata["modelspec.thumbnail"] = _data_url(adapter.preview)
    return metadata


def read_info(metadata: Mapping[str, str], path: Path) -> AdapterInfo:
    """Read a file's metadata. Raises BadInput for a `studio` entry that cannot be read."""
    preview = _preview(metadata.get("modelspec.thumbnail", ""))
    if "studio" not in metadata:
        return _foreign_info(metadata, preview, path)
    stored: dict[str, Any] = parse_object(
        metadata["studio"], f"{path} is damaged: its `studio` metadata"
    )
    version = stored.get("version")
    if isinstance(version, int) and version > VERSION:
        raise BadInput(f"{path} was written by a newer Studio: upgrade to open it")
    complete = all(isinstance(stored.get(name), kind) for name, kind in STORED.items())
    if not (isinstance(version, int) and complete and stored["family"] in ("", *FAMILIES)):
        raise BadInput(f"{path} is damaged: its `studio` metadata is not complete")
    values = {name: stored[name] for name in STORED}
    values["triggers"] = tuple(map(str, stored["triggers"]))
    ranks = RankSchedule.read(stored[RANKS]) if RANKS in stored else None
    if RANKS in stored and ranks is None:
        raise BadInput(f"{path} is damaged: its {RANKS} is {stored[RANKS]!r}")
    return AdapterInfo(**values, preview=preview, rank_schedule=ranks)


def _foreign_info(
    metadata: Mapping[str, str], preview: Image.Image | None, path: Path
) -> AdapterInfo:
    architecture = metadata.get("modelspec.architecture", "")
    version = metadata.get("ss_base_model_version", "")
    families = [
        family
        for family, spec, kohya in KNOWN
        if architecture.startswith(spec) or version.startswith(kohya)
    ]
    trigger = metadata.get("modelspec.trigger_phrase", "")
    title = metadata.get("modelspec.title") or metadata.get("ss_output_name")
    return AdapterInfo(
        family=families[0] if families else "",
        base=metadata.get("ss_sd_model_name", ""),
        triggers=(trigger,) if trigger else (),
        recipe={
            key.removeprefix("ss_"): value
            for key, value in sorted(metadata.items())
            if key.startswith("ss_") and len(value) <= LONGEST_RECIPE_ENTRY
        },
        preview=preview,
        name=title or path.stem,
    )


def _data_url(picture: Image.Image) -> str:
    """A small copy as a PNG in a data URL. PNG is lossless: rewriting the file keeps its bytes."""
    small = picture.convert("RGB")
    small.thumbnail((PREVIEW, PREVIEW))
    file = io.BytesIO()
    small.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _preview(url: str) -> Image.Image | None:
    """The picture in a data URL; None where it cannot be read, as a preview is optional."""
    kind, _, data = url.partition(";base64,")
    if not kind.startswith("data:image/"):
        return None
    try:
        file = io.BytesIO(base64.b64decode(data, validate=True))
        with opened_picture(file, formats=("PNG", "JPEG", "WEBP")) as picture:
            return picture.convert("RGB") if max(picture.size) <= LARGEST_PREVIEW else None
    except ValueError:  # BadInput too
        return None
