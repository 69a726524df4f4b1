"""`studio caption`: the captions of a folder, changed all at once."""

from pathlib import Path
from typing import Annotated

import typer

from studio.dataset.caption_edits import CaptionEdit, write_captions
from studio.dataset.pictures import read_pictures
from ui.cli.options import AsJson
from ui.shared.terminal import print_json, print_note, print_table

app = typer.Typer()


@app.command(epilog='Example: studio caption photos/ --trigger "sks robot" --find red --write')
def caption(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures, as training reads it.")],
    *,
    find: Annotated[str, typer.Option(help="Text to replace, upper and lower case as is.")] = "",
    replace: Annotated[str, typer.Option(help="What takes its place.")] = "",
    prefix: Annotated[str, typer.Option(help="Put before every caption.")] = "",
    suffix: Annotated[str, typer.Option(help="Put behind every caption.")] = "",
    trigger: Annotated[str, typer.Option(help="Put first where a caption lacks it.")] = "",
    write: Annotated[
        bool, typer.Option("--write", help="Save them beside the pictures; else they are shown.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the captions of a folder, or change them all."""
    edit = CaptionEdit(find, replace, prefix, suffix, trigger)
    examples = read_pictures(folder, trigger="", size=8, step=8).examples
    before = {one.path: one.caption for one in examples}
    after = {path: edit.apply(text) for path, text in before.items()}
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
