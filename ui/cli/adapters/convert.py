"""`studio convert`: an adapter in the tensor names that other tools read."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from studio.adapters.blora_blocks import HALVES
from studio.adapters.describe import describe
from studio.errors import BadInput
from studio.files import check_folder_writable, check_new_adapter, display_name, write_file
from studio.workspace.names import numbered_names
from ui.shared.names import slug
from ui.shared.terminal import print_note

if TYPE_CHECKING:
    from torch import Tensor

    from studio.adapters.adapter import Adapter

Format = Literal["kohya", "diffusers", "lycoris", "onetrainer", "peft", "embedding"]
Contents = tuple[dict[str, "Tensor"], dict[str, str]]  # tensors and metadata of a file

app = typer.Typer()


@app.command(epilog="Example: studio convert robot.safetensors --to kohya")
def convert(
    file: Annotated[Path, typer.Argument(help="An adapter.")],
    *,
    to: Annotated[
        Format,
        typer.Option(
            help="The tool to write for. peft: writes a folder. embedding: writes only the new "
            "words, as textual inversion."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The new file. Default: FILE-FORMAT.safetensors, for peft FILE-peft."),
    ] = None,
    halves: Annotated[
        bool,
        typer.Option("--halves", help="Write a B-LoRA as two files, OUT-content and OUT-style."),
    ] = False,
    family: Annotated[
        Literal["sd1", "sd2", "sdxl"] | None,
        typer.Option(help="Family of the adapter's base, if the file does not say."),
    ] = None,
) -> None:
    """Write an adapter for another tool."""
    suffix = "" if to == "peft" else ".safetensors"
    if file.name in ("", ".."):  # the folder itself, or the one above: its name is needed
        describe(file)
        file = Path(os.path.abspath(file))
    out = out or file.with_name(f"{display_name(file)}-{to}{suffix}")
    outs = {file: out}
    if halves:
        stem, suffix = (out.name, "") if to == "peft" else (out.stem, out.suffix)
        outs = {
            file.with_name(f"{file.name}:{half}"): out.with_name(f"{stem}-{half}{suffix}")
            for half in HALVES
        }
    for one in outs.values():
        check_new(one, to)
    for part, one in outs.items():
        write_as(part, to=to, family=family, out=one)


def write_as(file: Path, *, to: Format, family: str | None, out: Path) -> None:
    """Write the adapter `file` with another tool's tensor names.

    to: "embedding" writes only the adapter's new words, as textual inversion; several words go to
    files called OUT-WORD. family: the family of the adapter's base, if the file doesn't say.
    out: a name that `check_new` accepts. Raises BadInput if a file of a word exists already.
    """
    from studio.adapters.load import load_adapter
    from studio.adapters.tensor_file import write_tensors

    adapter = load_adapter(file)
    if family and adapter.family not in ("", family):
        raise BadInput(f"{file} was made for {adapter.family}, not for {family}.")
    adapter = replace(adapter, family=family or adapter.family)
    if to == "peft":
        _write_folder(adapter, out)
        return
    files = _contents(adapter, to=to, out=out)
    for path in files.keys() - {out}:
        check_new_adapter(path)
    for path, (tensors, metadata) in files.items():
        write_tensors(path, tensors, metadata)
        print_note(f"{path}: {len(tensors)} tensors in {to} names")


def check_new(out: Path, to: Format) -> None:
    """Raise BadInput if the file or folder exists already or can't be written."""
    if to != "peft":
        check_new_adapter(out)
        return
    if os.path.lexists(out):
        raise BadInput(f"{out} already exists: give another --out.")
    check_folder_writable(out)


def _write_folder(adapter: "Adapter", out: Path) -> None:
    """Write a peft folder for each component of the model."""
    from studio.adapters.component_folders import FILE
    from studio.adapters.formats.convert import to_peft
    from studio.adapters.formats.names import PEFT_CONFIG
    from studio.adapters.tensor_file import write_tensors

    contents = to_peft(adapter)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as made:  # all or nothing
        whole = Path(made) / out.name
        for component, (tensors, config) in contents.items():
            write_tensors(whole / component / FILE, tensors, {"format": "pt"})
            write_file(whole / component / PEFT_CONFIG, json.dumps(config, indent=2).encode())
        whole.rename(out)
    for component, (tensors, _) in contents.items():
        print_note(f"{out / component}: {len(tensors)} tensors in peft's names")


def _contents(adapter: "Adapter", *, to: Format, out: Path) -> Mapping[Path, Contents]:
    """The tensors and metadata to write, by file."""
    from studio.adapters.formats.convert import CONVERTERS, to_inversions

    if to == "embedding":
        words = to_inversions(adapter)
        if len(words) == 1:
            return {out: next(iter(words.values()))}
        files: dict[Path, Contents] = {}
        for word, contents in words.items():
            stems = numbered_names(f"{out.stem}-{slug(word) or 'word'}")
            places = (out.with_name(f"{stem}{out.suffix}") for stem in stems)
            files[next(place for place in places if place not in files)] = contents
        return files
    return {out: CONVERTERS[to](adapter)}
