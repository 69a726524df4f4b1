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
.problem { color: #b91c1c; }
.dark .problem { color: #fca5a5; }
.empty { color: var(--body-text-color-subdued); padding: 1.5rem 0; }
.said p { margin: 0 0 .25rem; }
.tools { align-items: flex-end; flex-wrap: wrap; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(128px, 1fr)); gap: .75rem; }
.card {
  display: flex; flex-direction: column; gap: .15rem; padding: .5rem; text-align: left;
  border: 1px solid var(--border-color-primary); border-radius: var(--radius-md);
  background: var(--background-fill-primary); color: var(--body-text-color); cursor: pointer;
  min-width: 0; overflow-wrap: anywhere; font-size: .85rem; line-height: 1.3; font-weight: 400;
}
.card b { font-size: .95rem; }
.card span { color: var(--body-text-color-subdued); }
.card .problem { color: #b91c1c; }
.dark .card .problem { color: #fca5a5; }
.card:hover, .card[aria-pressed="true"] { border-color: var(--color-accent); }
.card[aria-pressed="true"] { box-shadow: 0 0 0 1px var(--color-accent); }
.card img, .card .no-picture, .about > img {
  width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: var(--radius-sm);
}
.card .no-picture {
  display: grid; place-items: center; font-size: 2rem; margin-bottom: .2rem;
  background: var(--background-fill-secondary);
}
.about > img { width: 160px; }
.about > .no-picture { display: none; }
.about h3 { margin: .5rem 0; overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; }
.facts dt { color: var(--body-text-color-subdued); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.about details { margin-top: .75rem; }
.about details .facts { margin-top: .5rem; font-size: .85rem; }
.entry {
  display: flex; gap: 1rem; justify-content: space-between; align-items: center;
  padding: .4rem 0; border-bottom: 1px solid var(--border-color-primary);
}
.entry span { min-width: 0; overflow-wrap: anywhere; }
.entry small { color: var(--body-text-color-subdued); }
.pick {
  width: 100%; padding: .5rem; text-align: left; font-size: .9rem; font-weight: 400;
  background: none; color: var(--body-text-color); cursor: pointer;
}
.pick[aria-pressed="true"] { background: var(--background-fill-secondary); }
.bar {
  height: .5rem; margin: .4rem 0; border-radius: 1rem; overflow: hidden;
  background: var(--background-fill-secondary);
}
.bar i { display: block; height: 100%; background: var(--color-accent); transition: width .3s; }
.sheet {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: .5rem;
}
.sheet img {
  width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: var(--radius-sm);
}
.manifest textarea { font-family: var(--font-mono); font-size: .85rem; }
button.small {
  flex: none; padding: .2rem .7rem; border: 1px solid var(--border-color-primary);
  border-radius: var(--radius-md); background: var(--button-secondary-background-fill);
  color: var(--button-secondary-text-color); cursor: pointer;
}
.card:focus-visible, .pick:focus-visible, button.small:focus-visible {
  outline: 2px solid var(--color-accent);
}
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
    ).set(
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        color_accent="*primary_600",
        # White on it has a contrast of 5.5 to 1; Gradio's own has 2.5.
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
    )
