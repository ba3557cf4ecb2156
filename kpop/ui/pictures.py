"""Pictures as the page shows them: scaled up here, framed in their variant's colour, metadata kept."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from PIL import Image, ImageFilter

from ..kept import png_bytes

TITLES = {"original": "Original", "sanitized": "Sanitized", "recovered": "Recovered", "kept": "Kept"}
NOTES = {
    "original": "the model as it was",
    "sanitized": "after forgetting",
    "recovered": "with the key",
    "kept": "a sibling, after forgetting",
}


def enlarge(image: Image.Image, side: int = 256) -> Image.Image:
    """The picture with its longer side at least `side` pixels (Lanczos, whole factor), its .info kept."""
    longest = max(image.size)
    if longest >= side:
        return image
    factor = -(-side // longest)
    larger = image.convert("RGB").resize((image.width * factor, image.height * factor), Image.LANCZOS)
    larger.info = dict(image.info)
    return larger


def blurred(image: Image.Image) -> Image.Image:
    """The picture so that nothing in it is known, for views whose pictures no style sheet can cover."""
    return image.filter(ImageFilter.GaussianBlur(max(image.size) / 16))


def data_uri(image: Image.Image, side: int = 256) -> str:
    """The enlarged picture as a data: address, so that no file has to be served."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(enlarge(image, side))).decode("ascii")


def framed(image: Image.Image, variant: str, alt: str, caption: str = "", side: int = 256) -> str:
    """HTML of one picture that opens large on a click; `caption` is text, not HTML."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure class="pic {escape(variant)}"><button type="button" class="pic-open" '
        f'aria-label="Show large: {escape(alt, quote=True)}">'
        f'<img src="{data_uri(image, side)}" alt="{escape(alt, quote=True)}"></button>{below}</figure>'
    )


def blank(caption: str = "", waiting: bool = False) -> str:
    """A place for a picture that is not there yet, of the picture's size."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    kind = "pic empty waiting" if waiting else "pic empty"
    return f'<figure class="{kind}"><div class="pic-hole"></div>{below}</figure>'


def wall(cells: Sequence[str], least: int = 128) -> str:
    """Pictures side by side in as many columns as fit; `least` is a picture's least width in pixels."""
    return f'<div class="wall" style="--least:{least}px">{"".join(cells)}</div>'


@dataclass(frozen=True, eq=False)
class Layer:
    """Pictures of one model for the same prompt and seeds. variant: its colour; captions: one a picture."""

    variant: str
    title: str
    note: str
    images: Sequence[Image.Image] = field(repr=False, default=())
    captions: Sequence[str] = ()


def layer(variant: str, images: Sequence[Image.Image] = (), captions: Sequence[str] = ()) -> Layer:
    """A layer under its variant's usual title."""
    return Layer(variant, TITLES.get(variant, variant), NOTES.get(variant, ""), images, captions)


def sheet(rows: Sequence[tuple[Layer, Sequence[str]]], heads: Sequence[str], label: str = "") -> str:
    """Grid of models (rows) by columns.

    rows: (whose title stands before them, cells as HTML); heads: column titles as text, one a cell.
    """
    columns = max(len(heads), 1)
    parts = [f'<div class="sheet" style="--columns:{columns}" role="table" aria-label="{escape(label)}">']
    parts.append('<div class="sheet-head" role="row"><span role="columnheader">')
    parts.append('<span class="unseen">model</span></span>')
    parts += [f'<span role="columnheader">{escape(head)}</span>' for head in heads]
    parts.append("</div>")
    for shown, cells in rows:
        parts.append(
            f'<div class="sheet-row {escape(shown.variant)}" role="row">'
            f'<div class="sheet-title" role="rowheader"><b>{escape(shown.title)}</b>'
            f"<small>{escape(shown.note)}</small></div>"
        )
        parts += [f'<div role="cell">{cell}</div>' for cell in cells]
        parts.append("</div>")
    parts.append("</div>")
    return "".join(parts)


def notice(title: str, text: str = "", kind: str = "quiet") -> str:
    """A short card: what is (not) here and what to do next. kind: quiet | error."""
    more = f"<p>{escape(text)}</p>" if text else ""
    return f'<div class="notice {kind}"><b>{escape(title)}</b>{more}</div>'
