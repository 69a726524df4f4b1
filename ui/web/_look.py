"""Colours, type and spacing of the page; nothing here is fetched from elsewhere."""

import gradio as gr

__all__ = ["CSS", "theme"]

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

CSS = """
.gradio-container { width: 100%; max-width: 1440px !important; margin: 0 auto !important; }
.studio-head { display: flex; align-items: baseline; gap: .75rem; padding: .25rem 0; }
.studio-head b { font-size: 1.15rem; letter-spacing: .01em; }
.studio-head span { color: var(--body-text-color-subdued); font-size: .9rem; }
.quiet { color: var(--body-text-color-subdued); font-size: .9rem; }
footer { opacity: .7; }
"""


def theme() -> gr.themes.Base:
    """Neutral greys with one colour for what acts, light and dark."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.zinc,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        font=SANS,
        font_mono=MONO,
    )
