"""What an adapter does to detail, measured and written into its file for CMLoRA."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import compose
from studio.adapters.adapter import Adapter, check_fits, load_adapter
from studio.adapters.blora_blocks import split_half
from studio.adapters.formats import adapter_metadata
from studio.adapters.safetensors_header import read_header, replace_metadata
from studio.bases.base import Base
from studio.errors import BadInput
from ui.shared.loading import open_base
from ui.shared.terminal import bars, print_json, print_table

__all__ = ["profile_files"]


def profile_files(
    files: Sequence[Path],
    *,
    base: str | None,
    steps: int,
    pictures: int,
    loading: Mapping[str, object],
    as_json: bool,
) -> None:
    """Measure each file's adapter and write `frequency_rise` into the recipe that it carries.

    base: what is drawn with; where not given, each adapter's own. The tensors of a file stay as
    they are, byte for byte. BadInput, before anything is drawn, for a file that is no adapter or
    does not fit.
    """
    for file in files:
        if split_half(str(file))[1]:
            raise BadInput(f"{file}: a file is measured as a whole, not half of it.")
    adapters = [load_adapter(file) for file in files]
    bases: dict[str, Base] = {}
    for adapter in adapters:
        source = base or adapter.base or "sketch"
        if source not in bases:
            bases[source] = open_base(source, loading)
        check_fits(adapter, bases[source])
    rows = []
    with bars() as shown:
        task = shown.add_task("Measuring", total=len(adapters))
        for adapter in adapters:
            on = bases[base or adapter.base or "sketch"]
            known = compose.profiled(on, adapter, steps=steps, pictures=pictures)
            rows.append(_written(known, on))
            shown.advance(task)
    if as_json:
        print_json(rows)
    else:
        columns = ("adapter", "frequency rise", "leads", "base")
        print_table(columns, [tuple(row.values()) for row in rows])


def _written(known: Adapter, base: Base) -> dict[str, object]:
    """The line of the table, the file having been written."""
    assert known.path is not None  # or it were not loaded
    metadata = read_header(known.path).metadata | {"studio": adapter_metadata(known)["studio"]}
    replace_metadata(known.path, metadata)
    rise = known.recipe["frequency_rise"]
    assert isinstance(rise, float)
    return {
        "adapter": str(known.path),
        "frequency_rise": round(rise, 4),
        "leads": "late" if rise < 0 else "early",
        "base": base.name,
    }
