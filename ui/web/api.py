"""What programs call through gradio_client, described on the API page."""

from studio.workspace import Workspace

__all__ = ["offer"]


def offer(space: Workspace) -> None:
    """Add the calls to the page under construction."""
