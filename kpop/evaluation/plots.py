"""Plots of tables and figures, one style: labels at the lines, colours the colour-blind can tell apart."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from PIL import Image

from ..attribution_export import save_figure
from ..disk import write_bytes, write_text
from .tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SOFT, GRID, PAPER = "#0f172a", "#526077", "#e2e8f0", "#ffffff"
OURS, PAPERS = "#0072b2", "#d55e00"
# Okabe and Ito's colours, each with a marker and a dash of its own.
SERIES = (
    ("#0072b2", "o", "-"),
    ("#d55e00", "s", "--"),
    ("#009e73", "D", "-."),
    ("#cc79a7", "^", ":"),
    ("#56b4e9", "v", "-"),
    ("#e69f00", "P", "--"),
    ("#000000", "X", ":"),
)
KINDS = ("png", "svg")  # in which every plot is written
MARKED = "#d55e00"

Points = Sequence[tuple[float, float, float, float]]  # x, y, low, high


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG or SVG; the same figure gives the same file. Raises RunError."""
    with matplotlib.rc_context({"svg.hashsalt": "kpop"}):
        save_figure(figure, path)
    if path.suffix == ".png":
        _shrink(path, _colours(figure))
    elif path.suffix == ".svg":
        _shrink_inside(path)
    return path


def _colours(figure: Figure) -> int | None:
    """How many colours its PNG can do with; None where a scale of colours would show steps."""
    if any(isinstance(drawn, QuadMesh) for axes in figure.axes for drawn in axes.collections):
        return None
    return 256 if any(axes.images for axes in figure.axes) else 64


def _shrink(path: Path, colours: int | None) -> None:
    """Write a PNG again as small as it goes: they are kept in the repository."""
    drawn, small = Image.open(path), io.BytesIO()
    found = drawn.convert("RGB")
    found = found if colours is None else found.quantize(colours, dither=Image.Dither.NONE)
    found.save(small, "PNG", optimize=True, dpi=drawn.info["dpi"])
    write_bytes(path, small.getvalue())


def _shrink_inside(path: Path) -> None:
    """Write an SVG again as small as it goes: the pictures in it, each pixel as it was, and its outlines.

    These are cut to hundredths of a point; a letter's outline, named wherever it stands, gets a short name.
    """

    def smaller(found: re.Match) -> str:
        drawn, small = Image.open(io.BytesIO(base64.b64decode(found[1]))), io.BytesIO()
        opaque = drawn.mode == "RGBA" and drawn.getextrema()[3] == (255, 255)
        (drawn.convert("RGB") if opaque else drawn).save(small, "PNG", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(small.getvalue()).decode()}"

    def shorter(found: re.Match) -> str:
        return re.sub(r"(\.\d\d)\d+", r"\1", " ".join(found[0].split()))

    text = re.sub(r"data:image/png;base64,\s*([^\"]*)", smaller, path.read_text("utf-8"))
    text = re.sub(r'(?<= )(d="[^"]*"|[xy]="[^"]*")|translate\([^)]*\)', shorter, text)
    write_text(path, re.sub(r"\n\s+", "\n", text).replace("DejaVuSans-", "D-"))


def blank(width: float, height: float, title: str) -> Figure:
    """An empty figure of that many inches, no pyplot state."""
    figure = Figure(figsize=(width, height), facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=12, color=INK, parse_math=False)
    return figure


def forest(table: Table) -> Figure:
    """A panel a column, a line a row: our value with its interval, and the paper's as an open diamond."""
    columns = [name for name in table.columns if any(name in row.ours for row in table.rows)]
    count, rows = max(1, len(columns)), table.rows
    figure = blank(2.3 + 1.75 * count, 1.7 + 0.36 * len(rows), f"{table.title}  ·  {_cells(table)}")
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    papers = False
    for axes, name in zip(panels, columns or [""], strict=True):
        for line, row in enumerate(rows):
            if name in row.ours:
                number = row.ours[name]
                around = [[max(0, number.value - number.low)], [max(0, number.high - number.value)]]
                wider = number.prompts or (number.value, number.value)
                axes.plot(wider, (line, line), color=OURS, linewidth=0.8, alpha=0.6)
                axes.errorbar(number.value, line, xerr=around, fmt="o", color=OURS, markersize=5,
                              elinewidth=1.5, capsize=2.5)  # fmt: skip
            if name in row.paper:
                papers = True
                axes.plot(row.paper[name], line, "D", color=PAPERS, markersize=6, markerfacecolor="none")
        if all(row.ours[name].percent for row in rows if name in row.ours):
            axes.set_xlim(-5, 105)
        _dress(axes, "x")
        axes.set_title(name, fontsize=9.5, color=INK, parse_math=False)
    panels[0].set_yticks(range(len(rows)), [row.label for row in rows], fontsize=9, color=INK)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    told = "● ours, with its 95 % interval (thin: of other prompts too)" + (
        "     ◇ the paper, on Stable Diffusion 1.4" if papers else ""
    )
    figure.supxlabel(told, fontsize=8.5, color=SOFT)
    return figure


def _cells(table: Table) -> str:
    return f"{table.have} of {table.want} cells"


def curves(
    axes: Axes,
    lines: Mapping[str, Points],
    x: str,
    y: str,
    title: str = "",
    logarithmic: bool = False,
    percent: bool = True,
) -> None:
    """A line a series with its intervals and, at its end, its name. percent: y runs from 0 to 100."""
    ends = []
    for (name, points), (colour, marker, dash) in zip(lines.items(), _cycle(len(lines)), strict=True):
        if not points:
            continue
        across, up, low, high = zip(*sorted(points), strict=True)
        below = [max(0.0, b - a) for a, b in zip(low, up, strict=True)]
        above = [max(0.0, b - a) for a, b in zip(up, high, strict=True)]
        axes.plot(across, up, dash, color=colour, marker=marker, markersize=4.5, linewidth=1.8)
        axes.errorbar(across, up, yerr=[below, above], fmt="none", ecolor=colour, alpha=0.45, capsize=2.5)
        ends.append([up[-1], across[-1], name, colour])
    if logarithmic:
        axes.set_xscale("log")
        ticks = sorted({point[0] for points in lines.values() for point in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    if percent:
        axes.set_ylim(-4, 104)
    _dress(axes, "both")
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.set_title(title, fontsize=10, color=INK, parse_math=False)
    _end_labels(axes, ends)


def _end_labels(axes: Axes, ends: list[list]) -> None:
    """Names right of the lines' ends, moved apart where they would lie on each other."""
    if not ends:
        return
    low, high = axes.get_ylim()
    apart, last = 0.055 * (high - low), None
    for end in sorted(ends):
        place = end[0] if last is None else max(end[0], last + apart)
        last = place
        axes.annotate(f" {end[2]}", (1.01, place), xycoords=("axes fraction", "data"), fontsize=8.5,
                      color=end[3], va="center", annotation_clip=False, parse_math=False)  # fmt: skip


def bars(axes: Axes, groups: Mapping[str, Mapping[str, float]], title: str, x: str) -> None:
    """Horizontal bars: a group a name of the inner mappings, a bar in it a name of the outer one."""
    names = list(next(iter(groups.values()), {}))
    high = 0.8 / max(1, len(groups))
    for i, ((group, values), (colour, _, _)) in enumerate(
        zip(groups.items(), _cycle(len(groups)), strict=True)
    ):
        places = [line + (i - (len(groups) - 1) / 2) * high for line in range(len(names))]
        axes.barh(places, [values.get(name, 0) for name in names], high * 0.92, color=colour, label=group)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.invert_yaxis()
    _dress(axes, "x")
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_title(title, fontsize=10, color=INK, parse_math=False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8.5)


def picture_grid(
    rows: Mapping[str, Sequence[Image.Image]],
    heads: Sequence[str],
    title: str,
    marked: Sequence[tuple[int, int]] = (),
    note: str = "",
) -> Figure:
    """Labelled rows of pictures. marked: (row, column) that get a frame."""
    count = max(1, *map(len, rows.values()))  # no picture may be there yet
    figure = blank(1.5 + 0.9 * count, 0.9 + 0.95 * len(rows), title)
    grid = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, images) in enumerate(rows.items()):
        for column, axes in enumerate(grid[line]):
            axes.set_xticks([])
            axes.set_yticks([])
            framed = (line, column) in marked
            for spine in axes.spines.values():
                spine.set(visible=framed, color=MARKED, linewidth=3)
            if column < len(images):
                axes.imshow(images[column])
            if line == 0 and column < len(heads):
                axes.set_title(heads[column], fontsize=8, color=SOFT, parse_math=False)
        grid[line][0].set_ylabel(name, fontsize=9, color=INK, rotation=0, ha="right", va="center",
                                 parse_math=False)  # fmt: skip
    if note:
        figure.supxlabel(note, fontsize=8, color=SOFT)
    return figure


def _cycle(count: int) -> list[tuple[str, str, str]]:
    return [SERIES[i % len(SERIES)] for i in range(count)]


def _dress(axes: Axes, grid: str) -> None:
    axes.grid(axis=grid, color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=INK, length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
