"""Pictures side by side with words around them, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

COLOURS = {"original": "#475569", "sanitized": "#0f766e", "recovered": "#b45309"}
INK, PAPER = "#0f172a", "#ffffff"
LEAST = 192  # pixels of a cell's side; smaller pictures are enlarged
GAP = 8
BORDER = 4


def contact_sheet(rows: Mapping[str, Sequence[Image.Image]], titles: Sequence[str]) -> Image.Image:
    """A labelled row a variant, a titled column a picture; all pictures are of one size."""
    first = next(iter(rows.values()))[0]
    scale = max(1.0, LEAST / min(first.size))
    width, height = (round(side * scale) for side in first.size)
    font = _font(15)
    lines = [_wrapped(title, font, width) for title in titles]
    top = GAP + 19 * max(len(found) for found in lines) + GAP
    left = GAP + round(max(font.getlength(name) for name in rows)) + GAP
    size = (left + (width + GAP) * len(titles), top + (height + GAP) * len(rows))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, found in enumerate(lines):
        for line, text in enumerate(found):
            draw.text((left + column * (width + GAP), GAP + 19 * line), text, INK, font)
    for row, (name, images) in enumerate(rows.items()):
        y = top + row * (height + GAP)
        colour = COLOURS.get(name, INK)
        draw.text((GAP, y + height // 2), name, colour, font, anchor="lm")
        for column, image in enumerate(images):
            x = left + column * (width + GAP)
            sheet.paste(image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS), (x, y))
            draw.rectangle((x, y, x + width - 1, y + height - 1), outline=colour, width=BORDER)
    return sheet


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in " ".join(text.split()).split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    while any(font.getlength(line) > width for line in lines):
        lines = [line if font.getlength(line) <= width else line.rstrip("…")[:-1] + "…" for line in lines]
    return [*lines[:2], lines[2] + "…"] if len(lines) > 3 else lines


def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    # matplotlib's own copy of DejaVu: Latin, Greek, Cyrillic and more, on every machine.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
