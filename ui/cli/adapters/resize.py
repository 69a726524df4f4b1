"""`studio resize`: an adapter as a smaller LoRA."""

from pathlib import Path
from typing import Annotated

import typer

from studio.files import check_new_adapter
from ui.shared.terminal import print_note

app = typer.Typer()


@app.command(
    epilog="Example: studio resize robot.safetensors --energy 0.95 --out small.safetensors"
)
def resize(
    file: Annotated[Path, typer.Argument(help="An adapter: LoRA, LoKr, LoHa or full changes.")],
    *,
    out: Annotated[Path, typer.Option(help="The new file.")],
    rank: Annotated[int | None, typer.Option(help="Rank of every layer, at most.")] = None,
    energy: Annotated[
        float | None,
        typer.Option(
            help="Share of each layer's energy to keep, such as 0.95; layers get different ranks."
        ),
    ] = None,
) -> None:
    """Cut an adapter to a rank, or to a share of its energy."""
    from studio.adapters.delta import LowRank
    from studio.adapters.load import load_adapter
    from studio.adapters.resize import resize_adapter

    check_new_adapter(out)
    resized = resize_adapter(load_adapter(file), rank=rank, energy=energy)
    resized.save(out)
    ranks = [one.rank for one in resized.deltas.values() if isinstance(one, LowRank)]
    range_text = f"ranks {min(ranks)} to {max(ranks)}, " if ranks else ""
    sizes = (f"{path.stat().st_size / 2**20:.1f} MiB" for path in (file, out) if path.is_file())
    print_note(f"{out}: {range_text}{' -> '.join(sizes)}")
