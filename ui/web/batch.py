"""The tab Batch."""

import gradio as gr

from ui.web._page import Page

__all__ = ["batch_tab"]


def batch_tab(page: Page) -> None:
    """Lay it out and wire it."""
    gr.Markdown("Batch")
