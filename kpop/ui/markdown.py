"""Markdown that a command wrote, as HTML: tables scroll in themselves, pictures of its folder are inlined."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

from ..kept import opened
from .pictures import data_uri

LARGEST = 2000  # pixels of a figure's longer side
PICTURE = re.compile(r"[\w.-]+\.png")


def markdown_html(text: str, folder: Path) -> str:
    """HTML of Markdown; raw HTML in it is shown as text, headings start at h3.

    Pictures are PNG files that lie in `folder` itself; others, and links elsewhere, are left out.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "autolink"])
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
        for child in token.children or ():
            if child.type == "image":
                child.type, child.content = (
                    "html_inline",
                    _picture(child.attrs.get("src"), child.content, folder),
                )
    html = parser.renderer.render(tokens, parser.options, {})
    opening = '<div class="scrolls" tabindex="0" role="region" aria-label="Table"><table>'
    return html.replace("<table>", opening).replace("</table>", "</table></div>")


def _picture(name: object, alt: str, folder: Path) -> str:
    if not isinstance(name, str) or not PICTURE.fullmatch(name):
        return ""
    image = opened(folder / name)
    if image is None:
        return ""
    image.thumbnail((LARGEST, LARGEST))
    return f'<img class="figure" src="{data_uri(image)}" alt="{escape(alt, quote=True)}">'
