"""How an evaluation stands: a line a word or group of predictions.csv, as it fills and when it is done."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .lines import Line
from .metrics import Estimate, estimate, mean_score
from .prompt_protocol import detections_of
from .protocol import SEPARATOR, VARIANTS


@dataclass(frozen=True)
class Standing:
    """A line and its figures so far. rates: variant -> Estimate, for the variants that have a picture."""

    line: Line
    rates: dict[str, Estimate]


def standing(folder: Path, lines: Sequence[Line]) -> list[Standing]:
    """Every line with what predictions.csv of the folder holds of it; torn rows are left out."""
    rows = predicted(folder)
    return [Standing(line, _rates(line, rows)) for line in lines]


def together(found: Sequence[Standing], folder: Path) -> dict[str, Standing]:
    """Role -> all pictures of its lines as one line, where the role has several that count what is seen."""
    rows, pooled = predicted(folder), {}
    for role in dict.fromkeys(each.line.role for each in found):
        lines = [each.line for each in found if each.line.role == role and each.line.labels]
        if len(lines) > 1:
            seen: dict[str, list[bool]] = {}
            for line in lines:
                for variant, hits in _hits(line, rows).items():
                    seen.setdefault(variant, []).extend(hits)
            line = replace(lines[0], name=f"all {role}", value="")
            pooled[role] = Standing(line, {v: estimate(seen[v]) for v in VARIANTS if v in seen})
    return pooled


def predicted(folder: Path) -> list[dict[str, str]]:
    """The whole rows of predictions.csv; none where there is no file yet."""
    try:
        text = (folder / "predictions.csv").read_text("utf-8", errors="replace")
    except OSError:
        return []
    whole = text[: text.rfind("\n") + 1]
    rows = csv.DictReader(whole.splitlines())
    return [row for row in rows if None not in row and None not in row.values() and "variant" in row]


def count_predicted(folder: Path) -> int:
    """How many whole rows predictions.csv has, without reading them out."""
    try:
        return max(0, (folder / "predictions.csv").read_bytes().count(b"\n") - 1)
    except OSError:
        return 0


def _rates(line: Line, rows: Sequence[dict[str, str]]) -> dict[str, Estimate]:
    if line.labels:
        return {variant: estimate(hits) for variant, hits in _hits(line, rows).items()}
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.get(line.column) == line.value and row.get(line.name):
            found.setdefault(row["variant"], []).append(float(row[line.name]))
    return {variant: mean_score(found[variant]) for variant in VARIANTS if variant in found}


def _hits(line: Line, rows: Sequence[dict[str, str]]) -> dict[str, list[bool]]:
    """variant -> for each picture whether the line's label was seen."""
    found: dict[str, list[bool]] = {}
    for row in rows:
        if row.get(line.column) == line.value:
            found.setdefault(row["variant"], []).append(_seen(line, row))
    return {variant: found[variant] for variant in VARIANTS if variant in found}


def _seen(line: Line, row: dict[str, str]) -> bool:
    if "labels" in row:
        return row["labels"].split(SEPARATOR)[0] in line.labels
    told = detections_of(row)
    if line.over is None:
        return bool(told) and told[0][0] in line.labels
    return any(label in line.labels and score > line.over for label, score in told)
