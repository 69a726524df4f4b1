"""Find the folder or file of a base on this machine, and download it if needed."""

import re
import socket
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, hf_hub_download, list_repo_files, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from studio.adapters.safetensors_header import PICKLES, pickle_error
from studio.assets import asset
from studio.bases.names import BUNDLED_BASES, HUB_ID
from studio.errors import BadInput, reason_of
from studio.files import expand_home, is_there, read_text
from studio.json_value import parse_object

COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2")
STEM = r"(model|diffusion_pytorch_model)"
PLAIN = re.compile(rf"{STEM}(-\d+-of-\d+)?\.safetensors|{STEM}\.safetensors\.index\.json")
FP16 = re.compile(
    rf"{STEM}\.fp16(-\d+-of-\d+)?\.safetensors|{STEM}\.safetensors\.index\.fp16\.json"
)


def find_source(source: str | Path, *, half: bool) -> Path:
    """The diffusers folder or .safetensors file that `source` names, downloaded where needed.

    source: "sketch", "sketch-sd1", a folder, a file, or a hub id "owner/name".
    half: prefer fp16 files, where the repository has fp32 files too.

    Raises BadInput where the source cannot be found or downloaded, or is a pickle.
    """
    name = str(source)
    if name in BUNDLED_BASES:
        return _bundled_folder(name)
    path = expand_home(source)
    if path.suffix.lower() in PICKLES:
        raise pickle_error(path)
    if is_there(path):
        return path
    if path.suffix.lower() == ".safetensors" or not HUB_ID.fullmatch(name):
        raise BadInput(
            f"There is no base {name!r}: give {', '.join(BUNDLED_BASES)}, a diffusers folder, "
            "a .safetensors file or a Hugging Face id such as "
            "stabilityai/stable-diffusion-xl-base-1.0."
        )
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise BadInput(f"There is no folder {name!r}, and no base has that id: {error}") from error
    return _hub_folder(name, half=half)


def refuse_download(source: str, recipe: str) -> None:
    """Raise BadInput for a hub id whose files are not all on this machine.

    A picture or a recipe may come from a stranger, so it may not start a download by itself.
    recipe: what messages call the picture or recipe.
    """
    local = source in BUNDLED_BASES or is_there(expand_home(source))
    if local or not HUB_ID.fullmatch(source):
        return
    snapshot = cached_snapshot(source)
    if not snapshot or not any(_complete(snapshot, half=half) for half in (False, True)):
        raise BadInput(
            f"{recipe} names the base {source!r}, which is not on this machine: give "
            f"--base {source} to download it, or another --base."
        )


def _bundled_folder(name: str) -> Path:
    folder = asset(name)
    if not (folder / "model_index.json").is_file():
        raise BadInput(
            f"The base {name!r} is not in {folder}: build it with "
            f"`python -m studio.sketch.build vae {name}`, or clone the repository with its assets."
        )
    return folder


def _hub_folder(repository: str, *, half: bool) -> Path:
    """The snapshot of a hub repository, downloaded unless the local cache has all of it."""
    snapshot = cached_snapshot(repository)
    if snapshot and _complete(snapshot, half=half):
        return snapshot
    return _download(repository, half=half)


def cached_snapshot(repository: str) -> Path | None:
    """The folder with the files of a hub repository that were downloaded; None where none were."""
    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def _download(repository: str, *, half: bool) -> Path:
    if not is_hub_reachable():
        raise BadInput(
            f"The base {repository!r} is not on this machine and the Hugging Face Hub cannot be "
            "reached: check the name and the connection, or give a folder or a file."
        )
    try:
        hf_hub_download(repository, "model_index.json")
        wanted = files_to_download(list_repo_files(repository), repository, half=half)
        return Path(snapshot_download(repository, allow_patterns=wanted))
    except GatedRepoError as error:
        raise BadInput(
            f"The base {repository!r} is gated: accept its licence on huggingface.co and log in "
            "with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise BadInput(
            f"The Hugging Face Hub has no base {repository!r}: check the spelling, or log in with "
            "`hf auth login` if it is private."
        ) from error
    except LocalEntryNotFoundError as error:
        raise BadInput(
            f"The base {repository!r} could not be downloaded: check the connection and try again."
        ) from error
    except EntryNotFoundError as error:
        raise BadInput(
            f"{repository!r} is not a base in the diffusers layout (it has no model_index.json): "
            "download its .safetensors checkpoint and give that file."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise BadInput(
            f"The base {repository!r} could not be downloaded: {reason_of(error)}"
        ) from error


def _complete(folder: Path, *, half: bool) -> bool:
    """Whether a cached snapshot has the weights of every part, not only configurations."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    if "model_index.json" not in names:
        return False
    try:
        wanted = files_to_download(names, str(folder), half=half)
    except BadInput:
        return False
    indexes = [folder / name for name in wanted if ".index." in name]
    return all(
        (index.parent / str(shard)).is_file() for index in indexes for shard in _shards(index)
    )


def _shards(index: Path) -> Iterable[object]:
    """The files that the index of a sharded model names."""
    files = parse_object(read_text(index), str(index)).get("weight_map")
    if not isinstance(files, dict):
        raise BadInput(f"{index} is damaged: it names no files")
    return files.values()


def is_hub_reachable() -> bool:
    """Whether the hub answers. Its own client would retry for half a minute."""
    if constants.is_offline_mode():
        return False
    address = urlsplit(constants.ENDPOINT)
    if address.scheme in getproxies():
        return True  # only the proxy can tell
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname, port), timeout=5).close()
    except OSError:
        return False
    return True


def files_to_download(names: list[str], repository: str, *, half: bool) -> list[str]:
    """The files of a diffusers repository that make a base: one set of safetensors per part.

    names: paths of all files in the repository.  half: take the fp16 set, where there are two.

    Raises BadInput where a part has no safetensors.
    """
    wanted = [
        name
        for name in names
        if name == "model_index.json"
        or re.fullmatch(r"(scheduler|tokenizer(_2)?)/[^/]+\.(json|txt)", name)
        or re.fullmatch(rf"({'|'.join(COMPONENTS)})/config\.json", name)
    ]
    for component in COMPONENTS:
        if f"{component}/config.json" not in names and component == "text_encoder_2":
            continue
        wanted += _weight_files(names, component, repository, half=half)
    return wanted


def weight_variant(folder: Path, component: str, *, half: bool) -> str | None:
    """The variant of a part's weights for diffusers to open: None for the plain ones, or "fp16".

    Raises BadInput where the part has no safetensors.
    """
    names = [
        f"{component}/{path.name}" for path in (folder / component).glob("*") if path.is_file()
    ]
    files = _weight_files(names, component, str(folder), half=half)
    return "fp16" if ".fp16" in files[0] else None


def _weight_files(names: list[str], component: str, where: str, *, half: bool) -> list[str]:
    """One set of a part's weight files, whole or in shards: plain, or fp16."""
    plain, half_files = (
        [name for name in names if pattern.fullmatch(name.removeprefix(f"{component}/"))]
        for pattern in (PLAIN, FP16)
    )
    if files := (half_files or plain) if half else (plain or half_files):
        return files
    if any(name.startswith(f"{component}/") and Path(name).suffix in PICKLES for name in names):
        raise BadInput(
            f"{where} keeps its {component} as a pickle, which can run any code when it is "
            "opened: use a repository or folder with .safetensors files, or convert it on "
            "huggingface.co/spaces/safetensors/convert."
        )
    raise BadInput(
        f"{where} has no {component} weights (.safetensors): it is not a whole base in the "
        "diffusers layout."
    )
