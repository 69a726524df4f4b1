"""Write a shot as a dictionary of JSON values, its only text form.

`shot_to_dict` is for the queue, for results.jsonl and for the web page. `recipe` is for the PNG of
a finished picture and adds what made it: hashes of all files, the base's fingerprint and the
versions of the libraries. `compose.shot_from_dict` reads both.
"""

from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from studio.adapters.blora_blocks import split_half
from studio.requests.picture_file import VERSION, picture_sha256
from studio.requests.shot import Shot, method_name, method_options

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter
    from studio.bases.base import Base
    from studio.requests.resolved_shot import ResolvedShot


def shot_to_dict(shot: Shot) -> dict[str, object]:
    """A shot as it was asked for. Files are named by absolute paths."""
    return {
        "version": VERSION,
        **{field.name: getattr(shot, field.name) for field in fields(shot)},
        "base": {"source": shot.base},
        "adapters": [
            _file_to_dict(adapter, strength)
            if isinstance(adapter, str | Path)
            else adapter_to_dict(adapter, strength)
            for adapter, strength in shot.adapters
        ],
        "method": _method_to_dict(shot),
        "init_image": None if shot.init_image is None else {"path": _path(shot.init_image)},
        "mask": None if shot.mask is None else {"path": _path(shot.mask)},
        "regions": list(shot.regions),
        "avoid": list(shot.avoid),
    }


def adapter_to_dict(adapter: "Adapter", strength: float) -> dict[str, object]:
    """An adapter of a mix. Its "path" is None where it was never saved."""
    path = None if adapter.path is None else str(Path(adapter.path).resolve())
    entry: dict[str, object] = {
        "name": adapter.name or (Path(path).stem if path else "adapter"),
        "path": path,
        "sha256": adapter.sha256,
        "strength": strength,
        "kind": adapter.kind,
        "triggers": list(adapter.triggers),
    }
    return entry | {"half": adapter.half} if adapter.half else entry


def recipe(shot: "ResolvedShot", base: "Base") -> dict[str, object]:
    """Everything that is needed to make the shot's picture again on this base, bit for bit."""
    return shot_to_dict(shot.shot) | {
        "width": shot.width,
        "height": shot.height,
        "base": _base_to_dict(base),
        "adapters": [adapter_to_dict(adapter, strength) for adapter, strength in shot.adapters],
        "init_image": _picture_to_dict(shot.shot.init_image),
        "mask": _picture_to_dict(shot.shot.mask),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """The versions of Studio and of the libraries that decide a picture's bits."""
    return {name: _version(name) for name in ("studio", "torch", "diffusers", "transformers")}


def _method_to_dict(shot: Shot) -> dict[str, object]:
    """The method's name and options. Options null are the defaults of whoever reads them."""
    name = method_name(shot.method, shot.regions)
    unset = shot.method is None and shot.regions
    return {"name": name, "options": None if unset else method_options(shot.method)}


def _file_to_dict(file: str | Path, strength: float) -> dict[str, object]:
    path, half = split_half(str(file))
    full = Path(path).absolute()
    entry: dict[str, object] = {"name": full.stem, "path": str(full), "strength": strength}
    return entry | {"half": half} if half else entry


def _base_to_dict(base: "Base") -> dict[str, object]:
    unusual: dict[str, object] = {"vae": base.vae_source} if base.vae_source else {}
    unusual |= {"vae_tiling": True} if base.vae.use_tiling else {}
    return {
        "source": str(base.source),
        "name": base.name,
        "family": base.family,
        "fingerprint": base.fingerprint(),
        "dtype": base.precision,
        "device": base.device.type,
        "prediction": base.prediction_type,
        **unusual,
        **base.stored,
    }


def _picture_to_dict(picture: Image.Image | str | Path | None) -> Mapping[str, object] | None:
    if picture is None:
        return None
    return {"path": _path(picture), "sha256": picture_sha256(picture)}


def _path(picture: Image.Image | str | Path) -> str | None:
    """A picture's full path; None for one in memory."""
    return None if isinstance(picture, Image.Image) else str(Path(picture).absolute())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout
        return "unknown"
