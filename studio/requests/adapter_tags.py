"""Adapters named in a prompt, as in A1111 and SwarmUI: <lora:NAME:STRENGTH>.

NAME is a file's name without .safetensors, in the library or in a folder; SwarmUI puts folders
before it. STRENGTH is 1 where it is missing. A half of a B-LoRA is <lora:NAME:style:0.8>.
"""

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from studio.adapters.blora_blocks import HALVES
from studio.errors import BadInput
from studio.files import expand_home, is_there
from studio.requests.prompt_syntax import split_adapter_tags
from studio.requests.shot import Shot
from studio.workspace import DEFAULT_FOLDER

SUFFIX = ".safetensors"


def take_adapter_tags(shot: Shot, find: Callable[[str], str]) -> Shot:
    """The shot with the tags of its prompt turned into adapters. Only the syntax a1111 has tags.

    find: returns the file of NAME or NAME:HALF. Raises BadInput for a tag that names no adapter, or
    asks for something that Studio can't do.
    """
    if shot.syntax != "a1111":
        return shot
    prompt, tags = split_adapter_tags(shot.prompt)
    if not tags and prompt == shot.prompt:
        return shot
    named = ((find(name), strength) for name, strength in map(read_adapter_tag, tags))
    return replace(shot, prompt=prompt, adapters=(*shot.adapters, *named))


def read_adapter_tag(tag: tuple[str, str]) -> tuple[str, float]:
    """NAME or NAME:HALF, and the strength. tag: one that `split_adapter_tags` returned."""
    network, content = tag
    written = f"<{network}:{content}>"
    if network.lower() == "hypernet":
        raise BadInput(f"{written} names a hypernetwork, which Studio can't use: take it out")
    name, *rest = (word.strip() for word in content.split(":"))
    if rest and rest[0] in HALVES:
        name = f"{name}:{rest.pop(0)}"
    try:
        strengths = {float(word) for word in rest} or {1.0}
    except ValueError:
        raise BadInput(f"{written} can't be read: write <lora:NAME:STRENGTH>") from None
    if len(strengths) > 1:
        raise BadInput(
            f"{written} gives the text encoder a strength of its own, which Studio can't do: "
            "give one strength"
        )
    return name, strengths.pop()


def find_adapter(name: str, *, folder: Path = Path()) -> str:
    """The file of NAME or NAME:HALF in a folder, or else in the library; BadInput if in neither.

    The library is that of the default workspace.
    """
    plain, colon, half = name.partition(":")
    library = expand_home(DEFAULT_FOLDER) / "adapters"
    last = plain.rpartition("/")[2]  # the library has no folders
    for file in (folder / f"{plain}{SUFFIX}", folder / plain, library / f"{last}{SUFFIX}"):
        if is_there(file) and file.is_file():
            return f"{file}{colon}{half}"
    names = [file.stem for place in (folder, library) for file in place.glob(f"*{SUFFIX}")]
    close = get_close_matches(plain, names, 1)
    hint = f"did you mean {close[0]}?" if close else "import it, or take it out of the prompt"
    raise BadInput(
        f"the prompt names the adapter {plain}, which is neither in {folder.absolute()} nor in the "
        f"library {library}: {hint}"
    )
