"""Read what the header of an adapter's file tells: all but the tensors. No PyTorch here."""

from dataclasses import dataclass, replace
from pathlib import Path

from studio.adapters.blora_blocks import HALVES, select_half, split_half
from studio.adapters.component_folders import component_files
from studio.adapters.formats.metadata import AdapterInfo, AdapterOutline, read_info
from studio.adapters.formats.survey import Contents, survey
from studio.adapters.safetensors_header import Header, read_header
from studio.errors import BadInput
from studio.files import expand_home, is_there

FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")


@dataclass(frozen=True)
class AdapterHeader:
    """What the header of an adapter's file tells.

    info: from the metadata. Where a file of another program states no family or no trigger words,
    they are inferred from its layers and embeddings.
    """

    path: Path
    header: Header
    contents: Contents
    info: AdapterInfo


def read_adapter_header(path: Path) -> AdapterHeader:
    """Read the header of a file or folder. Raises BadInput as `load_adapter` does."""
    path = find_adapter_file(path)
    header = read_header(path)
    contents = survey(header, path)
    info = read_info(header.metadata, path)
    stated = info.triggers or info.kind != "unknown"
    triggers = info.triggers if stated else tuple(contents.embeddings)
    info = replace(info, family=info.family or contents.family, triggers=triggers)
    return AdapterHeader(path, header, contents, info)


def outline_adapter(path: str | Path) -> AdapterOutline:
    """An adapter without its tensors, from the header alone. Raises BadInput as `load_adapter`."""
    file, half = split_half(str(path))
    header = read_adapter_header(Path(file))
    contents = header.contents
    outline = AdapterOutline(
        **vars(header.info),
        deltas=contents.layers,
        embeddings=contents.embeddings,
        path=header.path,
    )
    return select_half(outline, half) if half else outline


def find_adapter_file(path: Path) -> Path:
    """The file of an adapter given as a file or a folder; BadInput where there is none.

    A folder with one folder for each component is returned as it is.
    """
    path = expand_home(path)
    if not is_there(path):
        file, _, half = str(path).rpartition(":")
        if file and is_there(Path(file)):
            halves = " and ".join(f":{name}" for name in HALVES)
            raise BadInput(f"there is no half :{half} of {file}: a B-LoRA has {halves}")
        raise BadInput(f"there is no adapter {path}")
    if path.is_dir():
        for name in FILES:
            if (path / name).is_file():
                return path / name
        if component_files(path):
            return path
        if (path / "model_index.json").is_file():
            raise BadInput(f"the folder {path} is a base, not an adapter: give it with --base")
        raise BadInput(f"the folder {path} holds no adapter: there is no {' or '.join(FILES)}")
    return path
