"""How the page looks: theme, stylesheet, script, icon. Nothing here needs a network."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.themes.utils.fonts import LocalFont

HERE = Path(__file__).parent
STYLE = HERE / "style.css"
SCRIPT = HERE / "page.js"
ICON = HERE / "icon.svg"

TEAL = gr.themes.Color(
    name="sanitized",
    c50="#f0fdfa",
    c100="#ccfbf1",
    c200="#99f6e4",
    c300="#5eead4",
    c400="#2dd4bf",
    c500="#14a394",
    c600="#0f766e",
    c700="#0d655e",
    c800="#115e59",
    c900="#134e4a",
    c950="#042f2e",
)


def theme() -> gr.themes.Base:
    """IBM Plex from gradio's own files, slate neutrals, teal for the one primary button of a step."""
    look = gr.themes.Base(
        primary_hue=TEAL,
        secondary_hue="slate",
        neutral_hue="slate",
        radius_size="md",
        spacing_size="md",
        text_size="md",
        font=[LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
        font_mono=[LocalFont("IBM Plex Mono", weights=(400,)), "ui-monospace", "monospace"],
    )
    return look.set(
        body_background_fill="#f5f6f8",
        body_background_fill_dark="#0b1018",
        body_text_color="#0f172a",
        body_text_color_dark="#e6eaf2",
        body_text_color_subdued="#526077",
        body_text_color_subdued_dark="#9aa7bb",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#121926",
        background_fill_secondary="#f5f6f8",
        background_fill_secondary_dark="#0f1520",
        border_color_primary="#dde2ea",
        border_color_primary_dark="#263145",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_title_text_weight="600",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_info_text_color="*body_text_color_subdued",
        block_info_text_color_dark="*body_text_color_subdued",
        block_padding="0px",
        form_gap_width="0px",
        input_background_fill="#ffffff",
        input_background_fill_dark="#0f1520",
        input_border_color="#c6cedb",
        input_border_color_dark="#35435b",
        input_border_width="1px",
        input_radius="8px",
        input_placeholder_color="#66748a",
        input_placeholder_color_dark="#8390a5",
        button_large_radius="8px",
        button_medium_radius="8px",
        button_small_radius="8px",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_hover="#0d655e",
        button_primary_background_fill_dark="#0f766e",
        button_primary_background_fill_hover_dark="#14857b",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#1a2333",
        button_secondary_background_fill_hover="#eef1f5",
        button_secondary_background_fill_hover_dark="#222d40",
        button_secondary_border_color="#c6cedb",
        button_secondary_border_color_dark="#35435b",
        button_secondary_text_color="#0f172a",
        button_secondary_text_color_dark="#e6eaf2",
        button_border_width="1px",
        slider_color="#475569",
        slider_color_dark="#94a3b8",
        checkbox_label_background_fill="transparent",
        checkbox_label_background_fill_dark="transparent",
        loader_color="#0f766e",
        loader_color_dark="#2dd4bf",
    )


def head() -> str:
    """Script of the page (picture viewer, ?run= in the address), inlined: no file to be allowed."""
    return f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>"
