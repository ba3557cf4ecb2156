"""Line charts as HTML: redrawn every two seconds without a flicker, in the theme's own colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

DECADES = 5  # a loss that starts at rounding errors, as that of what is retained does, sets no scale


@dataclass(frozen=True)
class Line:
    """One curve. tone: original | sanitized | recovered | soft; dash: SVG dash pattern, "" for none."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    tone: str
    dash: str = ""


def smoothed(ys: Sequence[float | None], share: float = 0.8) -> list[float | None]:
    """Running mean of a noisy curve: each value keeps `share` of the ones before it; gaps stay gaps."""
    found, mean = [], None
    for y in ys:
        if y is not None:
            mean = y if mean is None else share * mean + (1 - share) * y
        found.append(None if y is None else mean)
    return found


def _number(value: float) -> str:
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if size >= 0.001 else f"{value:.0e}"


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers inside [low, high]."""
    span = (high - low) or 1.0
    raw = span / count
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw)
    first = math.ceil(low / step - 1e-9) * step
    return [round(first + i * step, 12) for i in range(int((high - first) / step + 1e-9) + 1)]


def line_chart(
    title: str, note: str, lines: Sequence[Line], last_x: float, log: bool = False, least: tuple | None = None
) -> str:
    """HTML of a chart; x runs from 0 to last_x; log: base-10 axis; least: (low, high) shown at least."""
    points = [
        [
            (x, y)
            for x, y in zip(line.xs, line.ys, strict=False)
            if y is not None and math.isfinite(y) and (y > 0 or not log)
        ]
        for line in lines
    ]
    every = [math.log10(y) if log else y for curve in points for _, y in curve]
    if not every:
        return (
            f'<section class="chart"><h4>{escape(title)}</h4><p class="fine">{escape(note)}</p>'
            '<div class="plot"><p class="fine">The first points come in a moment.</p></div></section>'
        )
    low, high = min(every), max(every)
    if log:
        low = max(low, high - DECADES)
    if least and not log:
        low, high = min(low, least[0]), max(high, least[1])
    pad = (high - low or 1.0) * 0.06
    low, high = low - pad, high + pad
    width = max(last_x, 1)

    def across(x: float) -> float:
        return 100 * x / width

    def down(y: float) -> float:
        return min(100.0, 100 - 100 * ((math.log10(y) if log else y) - low) / (high - low))

    if log:
        whole = [10.0**power for power in range(math.ceil(low), math.floor(high) + 1)]
        y_ticks = whole if len(whole) >= 2 else [10**value for value in _ticks(low, high, 3)]
    else:
        y_ticks = _ticks(low, high)
    grid = "".join(f'<line x1="0" x2="100" y1="{down(y):.2f}" y2="{down(y):.2f}"/>' for y in y_ticks)
    curves, legend = [], []
    for line, curve in zip(lines, points, strict=True):
        if not curve:
            continue
        where = " ".join(f"{across(x):.2f},{down(y):.2f}" for x, y in curve)
        dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
        curves.append(f'<polyline class="{line.tone}" points="{where}"{dash}/>')
        legend.append(
            f'<li class="{line.tone}"><svg viewBox="0 0 24 4" aria-hidden="true">'
            f'<line x1="0" x2="24" y1="2" y2="2"'
            f"{dash}/></svg>{escape(line.label)} <b>{_number(curve[-1][1])}</b></li>"
        )
    y_labels = "".join(f'<span style="top:{down(y):.2f}%">{_number(y)}</span>' for y in y_ticks)
    x_labels = "".join(f'<span style="left:{across(x):.2f}%">{x:g}</span>' for x in _ticks(0, width, 5))
    return (
        f'<section class="chart"><h4>{escape(title)}</h4><p class="fine">{escape(note)}</p>'
        f'<ul class="legend">{"".join(legend)}</ul><div class="plot"><div class="plot-y">{y_labels}</div>'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{escape(title)}">'
        f'<g class="grid">{grid}</g>{"".join(curves)}</svg>'
        f'<div class="plot-x">{x_labels}</div></div></section>'
    )


def whiskers(rates: Sequence[tuple[str, float, float, float]]) -> str:
    """HTML of one row of an interval plot from 0 to 100: a lane each (tone, value, low, high).

    The numbers stand beside it as text, so it is hidden from screen readers.
    """
    lanes = "".join(
        f'<i class="{tone}" style="--at:{value:.2f}%;--low:{low:.2f}%;--wide:{high - low:.2f}%"></i>'
        for tone, value, low, high in rates
    )
    return f'<div class="whiskers" aria-hidden="true">{lanes}</div>'
