"""`studio ui`: the web page."""

from typing import Annotated

import typer

from studio.workspace import DEFAULT_FOLDER, open_workspace
from ui.cli.options import WorkspaceFolder

app = typer.Typer()


@app.command("ui", epilog="Example: studio ui")
def web(
    *,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. Any but this machine's own needs --auth."),
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Port to listen on. Default: the first free one from 7860.")
    ] = None,
    auth: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:PASSWORD", envvar="STUDIO_AUTH", help="Ask for this name and password."
        ),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser", help="Open the page in the browser.")
    ] = False,
    workspace: WorkspaceFolder = DEFAULT_FOLDER,
) -> None:
    """Train, mix and make pictures in the browser."""
    from ui.web.server.app import serve

    serve(open_workspace(workspace), host=host, port=port, auth=auth, inbrowser=browser)
