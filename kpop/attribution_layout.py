"""Where pictures, maps, numbers and words stand on the figure of attention maps, lying or upright."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .attention_recorder import BANDS
from .attribution import Attribution
from .attribution_key import with_key
from .attribution_selection import layer_group, layer_title
from .attribution_summary import why_no_share

if TYPE_CHECKING:
    from .attribution_figure import Block

COLOURS = {
    "light": {"original": "#475569", "sanitized": "#0f766e", "recovered": "#b45309", "ink": "#0f172a",
              "soft": "#526077", "line": "#c6cedb", "paper": "#ffffff"},
    "dark": {"original": "#94a3b8", "sanitized": "#2dd4bf", "recovered": "#f59e0b", "ink": "#e6eaf2",
             "soft": "#9aa7bb", "line": "#35435b", "paper": "#121926"},
}  # fmt: skip
KEY = LinearSegmentedColormap.from_list("key", ["#1c1207", "#b45309", "#fde9c8"])
CELL, UPRIGHT_CELL = 0.92, 0.8  # inches
UNDER = 0.24  # for the number below a map


def percent(share: float) -> str:
    """ "12 %", or "1.2 %" of small shares."""
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


class Layout:
    """Where things stand on the figure, in inches from its upper left corner."""

    def __init__(self, blocks, lines, heads: int, upright: bool, colours: dict[str, str]):
        self.upright, self.colours, self.heads, self.lines = upright, colours, heads, lines
        self.side = UPRIGHT_CELL if upright else CELL
        image = blocks[0].variants[0].image
        self.wide = self.side * max(1, image.width / image.height)
        self.tall = self.side * max(1, image.height / image.width)
        about = self._about(blocks)
        self.note = _note(blocks)
        columns, counts = heads + 2, [sum(line.block == n for line in lines) for n in range(len(blocks))]
        if upright:
            self.left, self.top, between = 0.62, 1.02, 0.3
            width = self.left + len(lines) * (self.wide + 0.07) + between * (len(blocks) - 1) + 0.06
            body = columns * (self.tall + UNDER) + 0.72
        else:
            self.left, self.top, between = 1.24, 0.78, 0.42
            width = self.left + columns * (self.wide + 0.08) + 0.24 + 1.0 + 0.86
            body = len(lines) * (self.tall + UNDER) + between * (len(blocks) - 1)
        self.notes = textwrap.wrap(self.note, round(width * 15.5))
        height = self.top + body + (0.66 if upright else 0.0) + 0.15 * len(self.notes) + 0.12
        self.size = width, height
        self.body_end = self.top + body
        self.offsets = [between * line.block for line in lines]
        self.figure = Figure(figsize=self.size, facecolor=colours["paper"])
        FigureCanvasAgg(self.figure)
        self._headings(blocks, counts, about)
        for row, text in enumerate(self.notes):
            self._text(0.14, height - 0.14 - 0.15 * (len(self.notes) - 1 - row), text, 7.5, "soft")

    def cell(self, line: int, column: int, shade: np.ndarray, colour: str):
        x, y = self._corner(line, column)
        axis = self._axes(x, y, self.wide, self.tall)
        axis.imshow(shade, interpolation="bilinear", aspect="auto")
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(color=colour, linewidth=0.8)
        return axis

    def under(self, axis, text: str, bold: bool) -> None:
        if text:
            axis.set_xlabel(
                f"\N{BULLET} {text}" if bold else text, fontsize=8, labelpad=1.5,
                weight="bold" if bold else "normal", color=self.colours["ink" if bold else "soft"],
            )  # fmt: skip

    def label(self, line: int, text: str, colour: str) -> None:
        x, y = self._corner(line, 0)
        if self.upright:
            name = text.partition("\n")[0]
            self._text(x + self.wide / 2, y - 0.14, name, 8.5, colour, ha="center", weight="bold")
        else:
            name, _, more = text.partition("\n")
            middle = y + self.tall / 2 - 0.08 * bool(more)
            self._text(x - 0.1, middle, name, 9.5, colour, ha="right", weight="bold")
            self._text(x - 0.1, middle + 0.17, more, 8, colour, ha="right")

    def numbers(self, line: int, pairs: list[tuple[str, str]]) -> None:
        """Means over heads, behind the last map."""
        x, y = self._corner(line, self.heads + 2)
        for row, (name, value) in enumerate(pairs):
            if self.upright:
                self._text(x + self.wide / 2, y + 0.02 + 0.17 * row, value, 8.5, "ink", ha="center")
            else:
                at = y + self.tall / 2 + 0.21 * (row - (len(pairs) - 1) / 2)
                self._text(x + 0.1, at, name, 8, "soft")
                self._text(x + 0.98, at, value, 9.5, "ink", ha="right")
        if self.upright and line == 0:
            every = max((one.means() for one in self.lines), key=len)
            for row, (name, _) in enumerate(every):
                self._text(self.left - 0.08, y + 0.02 + 0.17 * row, name, 8, "soft", ha="right")

    def bars(self, norm, colour_map: Colormap, title: str, key_norm: Normalize) -> None:
        """The scale of the maps and, where p is, that of the key's share."""
        self._bar([at for at, line in enumerate(self.lines) if not line.is_key], norm, colour_map, title)
        if keyed := [at for at, line in enumerate(self.lines) if line.is_key]:
            self._bar(keyed[-1:], key_norm, KEY, "key")

    def _bar(self, lines: list[int], norm, colour_map: Colormap, title: str) -> None:
        first, last = self._corner(lines[0], self.heads + 2), self._corner(lines[-1], self.heads + 2)
        if self.upright:
            width = last[0] + self.wide - first[0]
            axis, way = self._axes(first[0], self.body_end + 0.16, width, 0.09), "horizontal"
        else:
            x = first[0] + 1.2
            axis, way = self._axes(x, first[1], 0.1, last[1] + self.tall - first[1]), "vertical"
        ticks = MaxNLocator(2 if len(lines) == 1 else 4).tick_values(norm.vmin, norm.vmax)
        ticks = [tick for tick in ticks if norm.vmin <= tick <= norm.vmax]
        bar = self.figure.colorbar(
            ScalarMappable(norm, colour_map), cax=axis, orientation=way, ticks=ticks,
            format=PercentFormatter(1, decimals=None, symbol=" %"),
        )  # fmt: skip
        bar.outline.set_visible(False)
        axis.tick_params(labelsize=7.5, colors=self.colours["soft"], length=0, pad=2)
        if self.upright:  # the ends stay clear of the bar beside it
            bar.set_ticks(ticks if len(lines) > 1 else ticks[-1:])
            axis.get_xticklabels()[0].set_ha("left")
            axis.get_xticklabels()[-1].set_ha("right")
        axis.set_title(title, fontsize=8.5, color=self.colours["soft"], pad=4, loc="left")

    def _headings(self, blocks, counts: list[int], about: list[str]) -> None:
        names = ["picture", *(f"head {head + 1}" for head in range(self.heads)), "all"]
        starts = [sum(counts[:number]) for number in range(len(blocks))]
        for number, start in enumerate(starts):
            x, y = self._corner(start, 0)
            word = f"“{blocks[number].word}”"
            if self.upright:
                self._text(0.14 if number == 0 else x, 0.26, word, 12, "ink", weight="bold")
                continue
            self._text(0.14, 0.26 if number == 0 else y - 0.16, word, 12, "ink", weight="bold")
        for column, name in enumerate(names):
            x, y = self._corner(0, column)
            if self.upright:
                self._text(x - 0.08, y + self.tall / 2, name, 8, "soft", ha="right")
            else:
                self._text(x + self.wide / 2, y - 0.13, name, 8.5, "soft", ha="center")
        if self.upright:
            for row, text in enumerate(textwrap.wrap("  ·  ".join(about), round(self.size[0] * 14))[:3]):
                self._text(0.14, 0.5 + 0.15 * row, text, 7.5, "soft")
        else:
            lines = textwrap.wrap("  ·  ".join(about), round((self.size[0] - 1.6) * 14))[:2]
            for row, text in enumerate(lines):
                y = 0.26 + 0.17 * (row - (len(lines) - 1) / 2)
                self._text(self.size[0] - 0.16, y, text, 8.5, "soft", ha="right")

    def _about(self, blocks) -> list[str]:
        maps = blocks[0].variants[0]
        prompts = list(dict.fromkeys(block.variants[0].prompt for block in blocks))
        seeds = dict.fromkeys(str(block.variants[0].seed) for block in blocks)
        bands = ", ".join(str(band + 1) for band in maps.bands)
        layers = dict.fromkeys(_layers(block.variants[0]) for block in blocks)
        return [
            " / ".join(textwrap.shorten(prompt, 60, placeholder=" ...") for prompt in prompts),
            f"seed {', '.join(seeds)}",
            " / ".join(layers),
            "all steps" if len(maps.bands) == BANDS else f"steps: fifth {bands} of {BANDS}",
            *filter(None, [with_key([maps for block in blocks for maps in block.variants])]),
        ]

    def _corner(self, line: int, column: int) -> tuple[float, float]:
        """Upper left corner of a cell."""
        apart = 0.1 * (column > 0) + 0.1 * (column > self.heads)
        if self.upright:
            x = self.left + line * (self.wide + 0.07) + self.offsets[line]
            return x, self.top + column * (self.tall + UNDER) + apart
        y = self.top + line * (self.tall + UNDER) + self.offsets[line]
        return self.left + column * (self.wide + 0.08) + apart, y

    def _axes(self, x: float, y: float, width: float, height: float):
        across, down = self.size
        return self.figure.add_axes((x / across, 1 - (y + height) / down, width / across, height / down))

    def _text(self, x: float, y: float, text: str, size: float, colour: str, **more) -> None:
        across, down = self.size
        colour = self.colours.get(colour, colour)
        self.figure.text(x / across, 1 - y / down, text, fontsize=size, color=colour, va="center", **more)


def _note(blocks: Sequence[Block]) -> str:
    maps, masks = blocks[0].variants[0], [block.mask for block in blocks if block.mask is not None]
    said = []
    if masks:
        areas = " / ".join(f"{100 * float(mask.float().mean()):.0f} %" for mask in masks)
        bold = "; bold: it looks there, or still does half as much" if len(maps.layers) == 1 else ""
        said.append(
            "Under a map: focus, the share of the head's attention inside the outline, which is the object "
            f"of the original picture in every row ({areas} is chance){bold}."
        )
    elif len(blocks[0].variants) > 1:
        said.append("Under a map: r, its correlation with the original's map of that head.")
    beside = "focus of all heads together; means over heads: " if masks else "means over heads: "
    said.append(f"Beside the maps: {beside}spread is entropy, 1 is even; agrees is correlation.")
    said += dict.fromkeys(filter(None, (why_no_share(maps) for block in blocks for maps in block.variants)))
    if len(maps.layers) > 1:
        said.append("Head numbers mean the same head only within one layer.")
    return " ".join(said)


def _layers(maps: Attribution) -> str:
    if len(maps.layers) == len(maps.sums):
        return "all layers"
    groups = {layer_group(name) for name in maps.layers}
    if len(maps.layers) > 1 and maps.layers == tuple(n for n in maps.sums if layer_group(n) in groups):
        return f"layers: {', '.join(sorted(groups, key=('down', 'middle', 'up').index))}"
    return f"layer {', '.join(map(layer_title, maps.layers))}"
