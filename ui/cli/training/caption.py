"""`studio caption`: show or change all captions of a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from studio.dataset.caption_edits import CaptionEdit, write_captions
from studio.dataset.pictures import read_pictures
from studio.errors import BadInput
from ui.cli.options import AsJson
from ui.shared.terminal import print_json, print_note, print_table, progress_bars

app = typer.Typer()


@app.command(epilog='Example: studio caption photos/ --trigger "sks robot" --find red --write')
def caption(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures, as training reads it.")],
    *,
    find: Annotated[str, typer.Option(help="Text to replace; upper and lower case differ.")] = "",
    replace: Annotated[str, typer.Option(help="What takes its place.")] = "",
    prefix: Annotated[str, typer.Option(help="Put before every caption.")] = "",
    suffix: Annotated[str, typer.Option(help="Put behind every caption.")] = "",
    trigger: Annotated[str, typer.Option(help="Put first where a caption lacks it.")] = "",
    model: Annotated[
        str,
        typer.Option(
            help="A BLIP, GIT or Florence-2 model that writes captions: its folder, or the hub id "
            "of one that is downloaded."
        ),
    ] = "",
    rewrite: Annotated[
        bool,
        typer.Option("--rewrite", help="With --model: also replace the captions that exist."),
    ] = False,
    write: Annotated[
        bool,
        typer.Option(
            "--write", help="Save the captions beside the pictures. Default: only show them."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the captions of a folder, change them all, or have a model write them."""
    if rewrite and not model:
        raise BadInput("--rewrite is for captions that a model writes: give --model too")
    edit = CaptionEdit(find, replace, prefix, suffix, trigger)
    examples = read_pictures(folder, trigger="", size=8, step=8).examples
    before = {one.path: one.caption for one in examples}
    new = _written([path for path in before if rewrite or not before[path]], model)
    after = {path: edit.apply(text) for path, text in (before | new).items()}
    changed = {path: text for path, text in after.items() if text != before[path]}
    if write:
        write_captions(changed)
    if as_json:
        print_json({str(path): text for path, text in after.items()})
        return
    print_table(
        ("picture", "caption"), [(str(path.relative_to(folder)), t) for path, t in after.items()]
    )
    saved = "saved" if write else "changed; --write saves them"
    print_note(f"{len(changed)} of {len(after)} captions {saved}")


def _written(pictures: Sequence[Path], model: str) -> dict[Path, str]:
    """The model's captions of these pictures; none if no model is given."""
    if not model:
        return {}
    from studio.dataset.captioner import open_captioner

    captioner = open_captioner(model)
    with progress_bars() as bars:
        return {one: captioner.caption(one) for one in bars.track(pictures, description="Captions")}
