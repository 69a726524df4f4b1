"""`studio profile`: measure what an adapter does to detail, and write it into its file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from studio.adapters.blora_blocks import split_half
from studio.errors import BadInput
from studio.files import check_writable
from ui.cli.options import BASES, LOADING, AsJson
from ui.shared.form import with_options
from ui.shared.loading import BaseCache
from ui.shared.terminal import print_json, print_table, progress_bars

if TYPE_CHECKING:
    from studio.adapters.adapter import Adapter
    from studio.bases.base import Base

COLUMNS = ("adapter", "frequency rise", "leads", "base")

app = typer.Typer()


@app.command(epilog="Example: studio profile robot.safetensors ink.safetensors")
@with_options({"loading": LOADING})
def profile(
    files: Annotated[list[Path], typer.Argument(help="Adapters.")],
    *,
    base: Annotated[
        str | None, typer.Option(help=f"{BASES} Default: the base that each was trained on.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps of each picture.")] = 10,
    pictures: Annotated[
        int, typer.Option(min=1, help="Pictures to make and average, each with its own seed.")
    ] = 2,
    as_json: AsJson = False,
    loading: Mapping[str, object],
) -> None:
    """Measure whether adapters add detail or smooth it, and write that into their files.

    The method cmlora uses it: adapters that add detail lead in early steps, adapters that smooth
    lead in late steps. Only the metadata of the files changes, but recipes of earlier pictures no
    longer recognise the files. So measure adapters before you make pictures with them.
    """
    from studio.adapters.compatibility import check_fits

    adapters, bases = _load(files), BaseCache()
    sources = [base or adapter.base or "sketch" for adapter in adapters]
    for adapter, source in zip(adapters, sources, strict=True):
        check_fits(adapter, bases.open(source, loading))
    rows = []
    with progress_bars() as progress:
        task = progress.add_task("Measuring", total=len(adapters))
        for adapter, source in zip(adapters, sources, strict=True):
            row = _measure(adapter, bases.open(source, loading), steps=steps, pictures=pictures)
            rows.append(row)
            progress.advance(task)
    if as_json:
        print_json(rows)
    else:
        print_table(COLUMNS, [tuple(row.values()) for row in rows])


def _load(files: Sequence[Path]) -> "list[Adapter]":
    """The adapters. Raises BadInput for a file that is no adapter or can't be written."""
    from studio.adapters.load import load_adapter

    for file in files:
        if split_half(str(file))[1]:
            raise BadInput(f"{file}: give the whole file, without :content or :style.")
        check_writable(file)
    return [load_adapter(file) for file in files]


def _measure(adapter: "Adapter", base: "Base", *, steps: int, pictures: int) -> dict[str, object]:
    """Measure an adapter, write `frequency_rise` into its file's recipe, return its table row.

    The tensors of the file stay the same, byte for byte.
    """
    import compose
    from studio.adapters.formats.metadata import adapter_metadata
    from studio.adapters.safetensors_header import read_header, replace_metadata

    measured = compose.profiled(base, adapter, steps=steps, pictures=pictures)
    assert measured.path is not None  # it was loaded from a file
    metadata = read_header(measured.path).metadata | {
        "studio": adapter_metadata(measured)["studio"]
    }
    replace_metadata(measured.path, metadata)
    rise = measured.recipe["frequency_rise"]
    assert isinstance(rise, float)
    return {
        "adapter": str(measured.path),
        "frequency_rise": round(rise, 4),
        "leads": "late" if rise < 0 else "early",
        "base": base.name,
    }
