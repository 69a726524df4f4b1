"""Addresses of files that the page may show."""

from pathlib import Path
from urllib.parse import quote

__all__ = ["address"]


def address(file: Path) -> str:
    """Where the server has it, relative to the page; it must lie in a folder that app.py shows."""
    return f"gradio_api/file={quote(str(file))}"
