"""Paths of the files that come with Studio: the sketch bases and the example pictures."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# A wheel has the files inside the package; a clone has them in a folder beside it.
INSTALLED, CLONED = PACKAGE / "_assets", PACKAGE.parent / "assets"


def asset(name: str) -> Path:
    """The path of an asset, such as "sketch" or "examples/robot"; the file need not exist."""
    return (INSTALLED if INSTALLED.is_dir() else CLONED) / name
