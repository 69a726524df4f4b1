"""`studio ui`: the web page."""

from pathlib import Path
from typing import Annotated

import typer

from studio.errors import BadInput
from studio.workspace import DEFAULT_FOLDER, open_workspace
from ui.cli.options import WorkspaceFolder

app = typer.Typer()


@app.command("ui", epilog="Example: studio ui")
def web(
    *,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but this machine's own needs --auth.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Port to listen on. Default: the first free one from 7860.")
    ] = None,
    auth: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:PASSWORD",
            envvar="STUDIO_AUTH",
            help="Ask for this name and password. Other users of this machine can see them in the "
            "list of processes: rather use --auth-file or the environment.",
        ),
    ] = None,
    auth_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Ask for the NAME:PASSWORD that this file holds."),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser", help="Open the page in the browser.")
    ] = False,
    workspace: WorkspaceFolder = DEFAULT_FOLDER,
) -> None:
    """Train, mix and make pictures in the browser."""
    from ui.web.server.app import serve

    login = read_login(auth, auth_file)
    serve(open_workspace(workspace), host=host, port=port, auth=login, inbrowser=browser)


def read_login(auth: str | None, file: Path | None) -> str | None:
    """The NAME:PASSWORD to ask for, or None. Raises BadInput if both arguments are given."""
    if file is None:
        return auth
    if auth is not None:
        raise BadInput("give --auth or --auth-file, and not STUDIO_AUTH beside it")
    try:
        return file.read_text(encoding="utf-8").rstrip("\n")  # it may be a pipe
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} cannot be read: {error}") from error
