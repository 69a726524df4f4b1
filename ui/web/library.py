"""The tab Library."""

import gradio as gr

from ui.web._page import Page

__all__ = ["library_tab"]


def library_tab(page: Page) -> None:
    """Lay it out and wire it."""
    gr.Markdown("Library")
