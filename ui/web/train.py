"""The tab Train."""

import gradio as gr

from ui.web._page import Page

__all__ = ["train_tab"]


def train_tab(page: Page) -> None:
    """Lay it out and wire it."""
    gr.Markdown("Train")
