"""The figure of the measures: every head of every layer as a table of tiles, and over the steps as curves."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .attention_recorder import BANDS
from .attribution_layout import COLOURS
from .attribution_measures import HeadNumbers
from .attribution_selection import layer_title
from .errors import InputError

MARKERS = {"original": "o", "sanitized": "s", "recovered": "^"}
TITLES = {
    "focus": "Focus: share of attention inside the object",
    "agreement": "Agreement: correlation with the original's map",
    "dispersion": "Spread: entropy of the map, 1 is even",
}
NOTES = {
    "focus": lambda chance: (
        "Percent of a head's attention to the word. White is chance"
        + (f", {100 * chance:.0f} %: the object's share of the picture." if chance else ".")
    ),
    "agreement": lambda _: "1 is the same map, 0 is no likeness.",
    "dispersion": lambda _: "0 is one point.",
}
TILE = 0.24  # inches high
LEFT, CHART = 0.86, 1.7  # inches


def profile_figure(
    numbers: Sequence[HeadNumbers],
    layer: str | None = None,
    chance: float | None = None,
    about: str = "",
    theme: str = "light",
    upright: bool = False,
    titles: Mapping[str, str] | None = None,
) -> Figure:
    """One word's measures over heads, layers and bands of steps.

    numbers: of every_table. Above, per variant, a tile a head and layer, on one scale: the focus, or where no
    object is known the agreement with the original. Below, the measures over the five bands, a pale line a
    head and a bold one for their mean: of `layer`, or averaged over all; of focus a head counts by its
    attention to the word. chance: the object's share of the picture. about: word, prompt and seed, told below
    the title. upright: one below another, for narrow pages. titles: what variants are called, if not so.
    """
    if not numbers:
        raise InputError("There are no numbers to draw.")
    colours, variants = COLOURS[theme], list(dict.fromkeys(row.variant for row in numbers))
    titles = {variant: (titles or {}).get(variant, variant) for variant in variants}
    layers = list(dict.fromkeys(row.layer for row in numbers))
    heads = 1 + max(row.head for row in numbers)
    known, several = numbers[0].focus is not None, len(variants) > 1
    measure = "focus" if known else "agreement" if several else "dispersion"
    tables = variants[1:] if measure == "agreement" else variants
    charts = [*(["focus"] if known else []), "dispersion", *(["agreement"] if several else [])]

    tile, gap = (0.4, 0.3) if upright else (0.43, 0.36)
    table = heads * tile, len(layers) * TILE
    across = 1 if upright else max(len(tables), len(charts))
    width = LEFT + across * table[0] + (across - 1) * gap + (0.1 if upright else 1.0)
    notes = [
        line for told in (about, NOTES[measure](chance)) for line in textwrap.wrap(told, round(width * 13))
    ]
    top, between = 0.68 + 0.16 * len(notes), 0.64 if upright else 0.46
    tall = (len(tables) if upright else 1) * (table[1] + between) + 0.24
    height = top + tall + (len(charts) if upright else 1) * (CHART + 0.5) - 0.05
    figure = Figure(figsize=(width, height), facecolor=colours["paper"])
    FigureCanvasAgg(figure)

    def text(x: float, y: float, words: str, size: float, colour: str, **more) -> None:
        colour = colours.get(colour, colour)
        figure.text(x / width, 1 - y / height, words, fontsize=size, color=colour, va="center", **more)

    def axes(x: float, y: float, wide: float, high: float):
        return figure.add_axes((x / width, 1 - (y + high) / height, wide / width, high / height))

    for row, line in enumerate(notes):
        text(0.14, 0.46 + 0.16 * row, line, 8, "soft")
    text(0.14, 0.22, TITLES[measure], 10.5, "ink", weight="bold")
    values = _tiles(numbers, measure)
    norm, shades = _scale(list(values.values()), measure, chance)
    for at, variant in enumerate(tables):
        x = LEFT + (0 if upright else at * (table[0] + gap))
        y = top + (at * (table[1] + between) if upright else 0)
        axis = axes(x, y, *table)
        grid = [[values.get((variant, name, head), np.nan) for head in range(heads)] for name in layers]
        _table(axis, np.array(grid), norm, shades, measure, colours)
        text(x, y - 0.14, titles[variant], 9.5, variant, weight="bold")
        for head in range(heads):
            text(x + (head + 0.5) * tile, y + table[1] + 0.1, f"{head + 1}", 7.5, "soft", ha="center")
        text(x + table[0] / 2, y + table[1] + 0.25, "head", 7.5, "soft", ha="center")
        if at == 0 or upright:
            for row, name in enumerate(layers):
                shown = {"weight": "bold"} if name == layer else {}
                colour = "ink" if name == layer else "soft"
                text(x - 0.08, y + (row + 0.5) * TILE, layer_title(name), 8, colour, ha="right", **shown)
        if layer in layers:
            box = Rectangle((-0.5, layers.index(layer) - 0.5), heads, 1, fill=False, clip_on=False)
            box.set(edgecolor=colours["ink"], linewidth=1.4)
            axis.add_patch(box)
    for at, name in enumerate(charts):
        x = LEFT + (0 if upright else at * (table[0] + gap))
        y = top + tall + (at * (CHART + 0.5) if upright else 0)
        axis = axes(x, y + 0.22, table[0] - 0.75, CHART - 0.3)
        level = chance if name == "focus" else None
        _chart(axis, numbers, name, layer, level, titles, colours)
        where = layer_title(layer) if layer else "all layers"
        text(x, y, f"{TITLES[name].partition(':')[0]}, {where}, over the steps", 9, "ink", weight="bold")
    return figure


def _tiles(numbers: Sequence[HeadNumbers], measure: str) -> dict[tuple[str, str, int], float]:
    rows = (row for row in numbers if row.band == "all")
    return {(row.variant, row.layer, row.head): getattr(row, measure) for row in rows}


def _scale(values: list[float], measure: str, chance: float | None):
    """Purple below and orange above chance, or zero; one scale for every table."""
    if measure == "dispersion":
        return Normalize(min(values), max(max(values), min(values) + 1e-6)), colormaps["cividis"]
    middle = 0.0 if measure == "agreement" else (chance or fmean(values))
    reach = 1.0 if measure == "agreement" else max(max(abs(value - middle) for value in values), 1e-6)
    return TwoSlopeNorm(middle, middle - reach, middle + reach), colormaps["PuOr_r"]


def _table(axis, grid: np.ndarray, norm, shades, measure: str, colours) -> None:
    axis.imshow(grid, norm=norm, cmap=shades, aspect="auto")
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(False)
    for (row, column), value in np.ndenumerate(grid):
        if np.isnan(value):
            continue
        red, green, blue, _ = shades(norm(value))
        ink = "#0f172a" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "#ffffff"
        told = f"{100 * value:.0f}" if measure == "focus" else f"{value:.2f}".replace("0.", ".")
        axis.text(column, row, told, fontsize=7, color=ink, ha="center", va="center")


def _chart(axis, numbers, measure: str, layer: str | None, chance, titles, colours) -> None:
    """Curves of one measure; a variant's title stands at the end of its line."""
    lines = {variant: _curves(numbers, variant, measure, layer) for variant in titles}
    if measure == "agreement":
        lines.pop(next(iter(titles)))
    ends = {}
    for variant, curves in lines.items():
        mean = {band: fmean(curve[band] for curve in curves) for band in curves[0]}
        if measure == "focus":  # as in the map of all heads: one that hardly reads the word hardly counts
            mean = {band: _focus_of_all(numbers, variant, layer, band) for band in mean}
        for curve in curves:
            axis.plot(*zip(*curve.items(), strict=True), color=colours[variant], linewidth=0.6, alpha=0.3)
        bands = list(mean)
        axis.plot(bands, list(mean.values()), color=colours[variant], linewidth=1.8, marker=MARKERS[variant],
                  markersize=4.5)  # fmt: skip
        ends[variant] = mean[bands[-1]]
    low, high = axis.get_ylim()
    if chance is not None:
        axis.axhline(chance, color=colours["soft"], linewidth=0.8, linestyle=(0, (2, 3)))
        ends["chance"] = chance
        low, high = min(low, chance), max(high, chance)
        axis.set_ylim(low, high)
    for name, y in _apart(ends, (high - low) * 0.12).items():
        told = titles.get(name, name)
        axis.annotate(
            told, (BANDS - 1, y), xytext=(8, 0), textcoords="offset points", va="center", fontsize=8,
            color=colours.get(name, colours["soft"]), weight="normal" if name == "chance" else "bold",
            annotation_clip=False,
        )  # fmt: skip
    axis.set_xlim(-0.15, BANDS - 1 + 0.15)
    labels = ["1\nnoise", *(str(band + 1) for band in range(1, BANDS - 1)), f"{BANDS}\npicture"]
    axis.set_xticks(range(BANDS), labels)
    axis.tick_params(labelsize=7.5, colors=colours["soft"], length=0)
    axis.set_facecolor(colours["paper"])
    axis.grid(axis="y", color=colours["line"], linewidth=0.6)
    axis.set_axisbelow(True)
    if measure == "focus":
        axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    for spine in axis.spines.values():
        spine.set_visible(False)


def _curves(numbers, variant: str, measure: str, layer: str | None) -> list[dict[int, float]]:
    """Per head the measure by band: of one layer, or averaged over the layers that have the head."""
    found: dict[int, dict[int, list[float]]] = {}
    for row in numbers:
        if row.variant == variant and row.band != "all" and layer in (None, row.layer):
            found.setdefault(row.head, {}).setdefault(int(row.band), []).append(getattr(row, measure))
    if not found:
        raise InputError("These numbers hold no bands of steps.")
    return [{band: fmean(values) for band, values in sorted(head.items())} for head in found.values()]


def _focus_of_all(numbers, variant: str, layer: str | None, band: int) -> float:
    rows = [r for r in numbers if (r.variant, r.band) == (variant, str(band)) and layer in (None, r.layer)]
    return fmean((row.focus for row in rows), [max(row.share, 1e-30) for row in rows])


def _apart(ends: dict[str, float], least: float) -> dict[str, float]:
    """Heights of labels, moved up where they would cover one another."""
    placed: dict[str, float] = {}
    last = -np.inf
    for name, y in sorted(ends.items(), key=lambda pair: pair[1]):
        placed[name] = last = max(y, last + least)
    over = max(placed.values()) - max(ends.values())
    return {name: y - over / 2 for name, y in placed.items()}
