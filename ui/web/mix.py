"""The tab Mix."""

import gradio as gr

from ui.web._page import Page

__all__ = ["mix_tab"]


def mix_tab(page: Page) -> None:
    """Lay it out and wire it."""
    gr.Markdown("Mix")
