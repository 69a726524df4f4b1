"""Colours, fonts and shapes of the page: ink on warm paper, with one green for controls.

The fonts are files that come with Gradio; nothing is fetched from the web. What a theme cannot
express is in `static/page.css`.
"""

import gradio as gr

# Gradio has complete files of these fonts for these two weights only.
FONT = (gr.themes.LocalFont("IBM Plex Sans", (400, 700)), "system-ui", "sans-serif")
MONO = (gr.themes.LocalFont("IBM Plex Mono", (400, 700)), "ui-monospace", "monospace")
PAPER = gr.themes.Color(
    name="paper",
    c50="#faf8f5", c100="#f4f1ec", c200="#e8e3db", c300="#d5cec4", c400="#a8a095", c500="#716a61",
    c600="#575149", c700="#3f3a34", c800="#2a2622", c900="#1f1c19", c950="#161412",
)  # fmt: skip
PINE = gr.themes.Color(
    name="pine",
    c50="#eef7f5", c100="#d6ebe6", c200="#afd8cf", c300="#7fc0b4", c400="#52a899", c500="#2d897b",
    c600="#1a6f64", c700="#155b53", c800="#134a44", c900="#123d39", c950="#07241f",
)  # fmt: skip
TEXT = gr.themes.Size("10px", "11px", "13px", "15px", "17px", "22px", "26px", name="text")
RADIUS = gr.themes.Size("2px", "4px", "6px", "8px", "10px", "14px", "22px", name="radius")


def theme() -> gr.themes.Base:
    """The theme, light and dark. Text has a contrast of at least 4.5 to 1."""
    return gr.themes.Base(
        primary_hue=PINE,
        secondary_hue=PINE,
        neutral_hue=PAPER,
        text_size=TEXT,
        radius_size=RADIUS,
        font=FONT,
        font_mono=MONO,
    ).set(**_surfaces(), **_fields(), **_buttons())


def _surfaces() -> dict[str, str]:
    return {
        "body_background_fill": "*neutral_50",
        "body_background_fill_dark": "*neutral_950",
        "background_fill_primary": "white",
        "background_fill_primary_dark": "*neutral_900",
        "background_fill_secondary": "*neutral_100",
        "background_fill_secondary_dark": "*neutral_800",
        "body_text_color_subdued": "*neutral_500",
        "border_color_primary_dark": "*neutral_700",
        "color_accent": "*primary_600",
        "link_text_color_dark": "*primary_300",
        # Blocks have no boxes of their own: panels group them.
        "block_background_fill": "transparent",
        "block_background_fill_dark": "transparent",
        "block_border_width": "0px",
        "block_padding": "0",
        "block_radius": "*radius_md",
        "block_label_radius": "*radius_md 0",
        "block_title_text_color": "*body_text_color",
        "block_title_text_color_dark": "*body_text_color",
        "block_title_text_size": "13.5px",
        "block_title_text_weight": "600",
    }


def _fields() -> dict[str, str]:
    return {
        "input_background_fill": "white",
        "input_background_fill_dark": "*neutral_950",
        "input_border_width": "1px",
        "input_border_color": "*neutral_300",
        "input_border_color_dark": "*neutral_700",
        "input_border_color_focus": "*primary_500",
        "input_border_color_focus_dark": "*primary_500",
        "input_shadow_focus": "0 0 0 3px color-mix(in srgb, *primary_500 18%, transparent)",
        "input_radius": "*radius_md",
        "input_padding": "9px 11px",
        "checkbox_label_background_fill": "transparent",
        "checkbox_label_background_fill_dark": "transparent",
        "checkbox_label_background_fill_hover": "*background_fill_secondary",
        "checkbox_label_background_fill_selected": "*primary_50",
        "checkbox_label_background_fill_selected_dark": "*primary_950",
        "checkbox_label_border_color_selected": "*primary_500",
        "checkbox_label_border_color_selected_dark": "*primary_600",
        "checkbox_background_color_dark": "*neutral_950",
    }


def _buttons() -> dict[str, str]:
    return {
        # White text on these colours has a contrast of 6 to 1.
        "button_primary_background_fill": "*primary_600",
        "button_primary_background_fill_hover": "*primary_700",
        "button_primary_background_fill_dark": "*primary_600",
        "button_primary_background_fill_hover_dark": "*primary_700",
        "button_primary_border_color": "*primary_600",
        "button_primary_border_color_hover": "*primary_700",
        "button_secondary_background_fill": "*background_fill_primary",
        "button_secondary_background_fill_dark": "*neutral_800",
        "button_secondary_background_fill_hover": "*neutral_100",
        "button_secondary_border_color": "*neutral_300",
        "button_secondary_border_color_dark": "*neutral_600",
        "button_secondary_border_color_hover": "*neutral_400",
        "button_secondary_text_color": "*body_text_color",
        "button_secondary_text_color_dark": "*body_text_color",
        "button_large_text_size": "16px",
        "button_large_padding": "11px 22px",
        "button_medium_padding": "8px 16px",
        "button_small_padding": "5px 12px",
        "button_small_text_size": "13px",
        "button_small_text_weight": "500",
    }
