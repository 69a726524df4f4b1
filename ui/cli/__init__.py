"""The command line, one module a command."""

from ui.cli.app import app, main

__all__ = ["app", "main"]
