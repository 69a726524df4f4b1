"""Modules of this installation as processes of their own, wherever it lies and they are started."""

import os
import sys
from pathlib import Path

__all__ = ["environment", "module_words"]


def module_words(module: str, *words: str) -> list[str]:
    """What runs a module in this interpreter, the folder it is started in left out of the path."""
    return [sys.executable, "-P", "-m", module, *words]


def environment() -> dict[str, str]:
    """This process's variables, with our packages before any others of their names."""
    ours = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path}
