"""The figure of attention maps: a row per variant, a column per head, one colour scale (KPOP Fig. 2)."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from .attribution import BANDS, Attribution, layer_group, layer_title
from .attribution_measures import correlation, dispersion, focus
from .disk import disk_error
from .errors import InputError

VIEWS = ("overlay", "heat", "difference")
COLOURS = {
    "light": {"original": "#475569", "sanitized": "#0f766e", "recovered": "#b45309", "ink": "#0f172a",
              "soft": "#526077", "paper": "#ffffff"},
    "dark": {"original": "#94a3b8", "sanitized": "#2dd4bf", "recovered": "#f59e0b", "ink": "#e6eaf2",
             "soft": "#9aa7bb", "paper": "#121926"},
}  # fmt: skip
CELL = 0.92  # inches
SHOWN = 256  # pixels of a picture's shorter side


def attribution_figure(
    variants: Sequence[Attribution],
    word: str,
    view: str = "overlay",
    mask: torch.Tensor | None = None,
    theme: str = "light",
) -> Figure:
    """Draw one word's maps: a row per variant, a column per head, then all heads.

    variants: of one prompt and seed, the original first; select() layers and steps beforehand. view: maps
    over the picture, maps alone, or what changed since the first. A last row shows the share of attention on
    the hidden prompt, where there is one. mask: bool [H, W], the object in the original: adds the focus.
    Returns a Figure of its own (no pyplot state). Raises InputError.
    """
    if view not in VIEWS:
        raise InputError(f"No view {view!r}: choose {', '.join(VIEWS)}.")
    if not variants or view == "difference" and len(variants) < 2:
        raise InputError("Give at least one variant, and two for the difference.")
    if len({(maps.prompt, maps.seed, maps.heads) for maps in variants}) > 1:
        raise InputError("The rows of one figure need one prompt, one seed and one model.")
    colours = COLOURS[theme]
    maps = [torch.cat([found.heads, found.all[None]]) for found in (v[word] for v in variants)]
    rows = [(v, m, m) for v, m in zip(variants, maps, strict=True)]
    if view == "difference":
        rows = [(v, m, m - maps[0]) for v, m, _ in rows[1:]]
    keyed = [v for v in variants if v.hidden_prompt_layers]
    norm, colour_map = _scale(torch.cat([shown for _, _, shown in rows]), view, theme)

    heads = variants[0].heads
    lines = len(rows) + len(keyed)
    numbers = 2 if mask is None else 3
    columns = heads + 2 + numbers
    size = CELL * columns + 1.9, CELL * lines + 1.25
    figure = Figure(figsize=size, facecolor=colours["paper"])
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        lines, columns, left=1.3 / size[0], right=1 - 0.75 / size[0], top=1 - 0.72 / size[1],
        bottom=0.53 / size[1], wspace=0.06, hspace=0.1, width_ratios=[1] * (heads + 2) + [0.62] * numbers,
    )  # fmt: skip
    cells = np.array([[figure.add_subplot(place) for place in line] for line in _places(grid)])
    _titles(cells[0], heads, mask, colours)
    for line, (variant, plain, shown) in zip(cells, rows, strict=False):
        colour = colours.get(variant.variant, colours["ink"])
        label = variant.variant + ("\nminus original" if view == "difference" else "")
        _label(line[0], label, colour)
        picture = _picture(variant.image)
        line[0].imshow(picture)
        for axis, map_ in zip(line[1:], shown.numpy(), strict=False):
            _cell(axis, map_, norm, colour_map, picture if view == "overlay" else None)
        _numbers(line[heads + 2 :], plain, maps[0], mask, colours)
        _frame(line[: heads + 2], colour)
    for line, variant in zip(cells[len(rows) :], keyed, strict=True):
        _hidden_prompt_row(line, variant, heads, colours)
    _words_around(figure, variants[0], word, size, colours)
    _colour_bar(figure, cells[: len(rows), -1], norm, colour_map, view, colours)
    return figure


def _places(grid) -> list[list]:
    return [[grid[line, column] for column in range(grid.ncols)] for line in range(grid.nrows)]


def _scale(shown: torch.Tensor, view: str, theme: str):
    """One norm and colour map for every panel; the 0.5 % of points at either end may saturate."""
    top = max(float(np.quantile(shown.abs().numpy(), 0.995)), 1e-6)
    if view == "difference":
        middle = "#1e293b" if theme == "dark" else "#f1f5f9"
        change = LinearSegmentedColormap.from_list("change", ["#2166ac", middle, "#b2182b"])
        return TwoSlopeNorm(0, -top, top), change
    low = min(float(np.quantile(shown.numpy(), 0.005)), 0.9 * top)
    heat = ["#0b1026", "#3b1f6b", "#8c2981", "#de4968", "#fe9f6d", "#fcfdbf"]
    return Normalize(low, top, clip=True), LinearSegmentedColormap.from_list("heat", heat)


def _picture(image: Image.Image) -> Image.Image:
    factor = SHOWN / min(image.size)
    size = [round(side * factor) for side in image.size]
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _cell(axis, map_: np.ndarray, norm, colour_map, picture: Image.Image | None) -> None:
    if picture is None:
        axis.imshow(map_, norm=norm, cmap=colour_map, interpolation="bilinear")
        return
    extent = (0, picture.width, picture.height, 0)
    axis.imshow(picture.convert("L"), cmap="gray", vmin=-160, vmax=255, extent=extent)
    strength = np.clip(norm(map_).filled(1), 0, 1) ** 1.2 * 0.92
    axis.imshow(map_, norm=norm, cmap=colour_map, alpha=strength, extent=extent, interpolation="bilinear")


def _hidden_prompt_row(line, variant: Attribution, heads: int, colours: dict[str, str]) -> None:
    mass = variant.hidden_prompt_mass
    mass = torch.cat([mass, mass.mean(0, keepdim=True)])
    top = min(max(float(mass.max()), 1e-6), 1.0)  # bicubic overshoots
    _label(line[0], "key's share\nwhere it enters", colours["recovered"])
    line[0].text(0.5, 0.5, f"0 to\n{_percent(top)}", transform=line[0].transAxes, fontsize=8,
                 color=colours["soft"], ha="center", va="center")  # fmt: skip
    shades = LinearSegmentedColormap.from_list("key", ["#1c1207", "#b45309", "#fde9c8"])
    for axis, map_ in zip(line[1:], mass, strict=False):
        axis.imshow(map_.numpy(), cmap=shades, vmin=0, vmax=top, interpolation="bilinear")
        axis.set_xlabel(_percent(float(map_.mean())), fontsize=7.5, color=colours["soft"], labelpad=2)
    _frame(line[1 : heads + 2], colours["recovered"])
    for axis in (line[0], *line[heads + 2 :]):
        _bare(axis)
        axis.patch.set_visible(False)


def _titles(line, heads: int, mask, colours) -> None:
    numbers = ["spread", "agrees"] if mask is None else ["focus", "spread", "agrees"]
    names = ["picture", *(f"head {head + 1}" for head in range(heads)), "all", *numbers]
    for axis, name in zip(line, names, strict=True):
        axis.set_title(name, fontsize=8.5, color=colours["soft"], pad=4)


def _numbers(cells, maps: torch.Tensor, first: torch.Tensor, mask, colours: dict[str, str]) -> None:
    """Means over heads: focus, dispersion, and correlation with the first row."""
    values = [dispersion(maps[:-1]).mean(), correlation(first[:-1], maps[:-1]).mean()]
    values = values if mask is None else [focus(maps[:-1], mask).mean(), *values]
    for axis, value in zip(cells, values, strict=True):
        axis.text(0.5, 0.5, f"{float(value):.3f}", transform=axis.transAxes, fontsize=9, color=colours["ink"],
                  ha="center", va="center")  # fmt: skip
        _bare(axis)
        axis.patch.set_visible(False)


def _words_around(figure: Figure, maps: Attribution, word: str, size, colours) -> None:
    layers = _layers(maps)
    fifths = ", ".join(str(band + 1) for band in maps.bands)
    bands = "all steps" if len(maps.bands) == BANDS else f"steps: fifth {fifths} of {BANDS}"
    left, high = 0.16 / size[0], 1 - 0.2 / size[1]
    figure.text(left, high, f"“{word}”", fontsize=12, weight="bold", color=colours["ink"], va="center")
    about = f"{maps.prompt[:80]}  ·  seed {maps.seed}  ·  {layers}  ·  {bands}"
    figure.text(1 - left, high, about, fontsize=8, color=colours["soft"], va="center", ha="right")
    note = "Numbers are means over heads. Spread: entropy, 1 is even. Agrees: correlation with the first row."
    if len(maps.layers) > 1:
        note += " Head numbers mean the same head only within one layer."
    figure.text(left, 0.16 / size[1], note, fontsize=7, color=colours["soft"], va="center")


def _layers(maps: Attribution) -> str:
    if len(maps.layers) == len(maps.sums):
        return "all layers"
    groups = {layer_group(name) for name in maps.layers}
    if len(maps.layers) > 1 and maps.layers == tuple(n for n in maps.sums if layer_group(n) in groups):
        return f"layers: {', '.join(sorted(groups, key=('down', 'middle', 'up').index))}"
    return f"layer {', '.join(map(layer_title, maps.layers))}"


def _colour_bar(figure: Figure, last_cells, norm, colour_map, view: str, colours: dict[str, str]) -> None:
    top, bottom = last_cells[0].get_position(), last_cells[-1].get_position()
    width = 0.1 / figure.get_figwidth()
    axis = figure.add_axes((top.x1 + width, bottom.y0, width, top.y1 - bottom.y0))
    scale = {"ticks": MaxNLocator(4), "format": PercentFormatter(1, decimals=None)}
    bar = figure.colorbar(ScalarMappable(norm, colour_map), cax=axis, **scale)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, colors=colours["soft"], length=0, pad=2)
    title = "change" if view == "difference" else "attention"
    bar.ax.set_title(title, fontsize=8.5, color=colours["soft"], pad=4, loc="left")


def _label(axis, text: str, colour: str) -> None:
    axis.text(-0.12, 0.5, text, transform=axis.transAxes, fontsize=9, weight="bold", color=colour,
              ha="right", va="center", linespacing=1.3)  # fmt: skip


def _frame(cells, colour: str) -> None:
    for axis in cells:
        _bare(axis)
        for spine in axis.spines.values():
            spine.set(visible=True, color=colour, linewidth=0.9)


def _bare(axis) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


def to_image(figure: Figure, dpi: int = 160) -> Image.Image:
    """The figure as an RGB picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")


def save_figure(figure: Figure, path: str | Path, dpi: int = 160) -> Path:
    """Write PNG, SVG or PDF by the name's ending, whole or not at all. Raises InputError, RunError."""
    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg", "pdf"):
        raise InputError(f"A figure is saved as .png, .svg or .pdf, not as {path.name!r}.")
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    options = {"format": kind, "dpi": dpi, "facecolor": figure.get_facecolor(), "metadata": undated}
    _write(path, lambda place: figure.savefig(place, **options))
    return path


def save_arrays(variants: Sequence[Attribution], path: str | Path) -> Path:
    """Write every map as .npz: VARIANT/heads/WORD [heads, H, W], VARIANT/hidden_prompt_mass, VARIANT/picture,
    and the native sums VARIANT/layer/NAME [bands, heads, columns, h, w] with VARIANT/steps_per_band.
    """
    arrays: dict[str, np.ndarray] = {}
    for maps in variants:
        name = maps.variant
        for word in maps.words:
            arrays[f"{name}/heads/{word}"] = maps[word].heads.numpy()
        arrays[f"{name}/hidden_prompt_mass"] = maps.hidden_prompt_mass.numpy()
        arrays[f"{name}/picture"] = np.asarray(maps.image.convert("RGB"))
        arrays[f"{name}/steps_per_band"] = np.asarray(maps.steps_per_band)
        for layer in maps.layers:
            arrays[f"{name}/layer/{layer}"] = maps.sums[layer].numpy()

    def write(place: Path) -> None:
        with place.open("wb") as file:
            np.savez_compressed(file, **arrays)

    _write(Path(path), write)
    return Path(path)


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """`write(place)` beside `path`, then rename; an error leaves nothing behind. Raises RunError."""
    waiting = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        write(waiting)
        os.replace(waiting, path)
    except OSError as error:
        raise disk_error(error, path.parent) from error
    finally:
        waiting.unlink(missing_ok=True)
