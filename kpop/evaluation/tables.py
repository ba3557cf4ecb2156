"""Tables from cells: pure functions of what the cells hold, each with the paper's figures beside ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from . import metrics
from .cells import Ask, Cell
from .metrics import ALL_AGREE

Looked = Sequence[tuple[Cell, Sequence[Ask]]]  # cells, and of each the asks that a figure is about
Rate = Callable[[list, list], Sequence[float]]  # (an entry a picture, its target) -> a value a picture


@dataclass(frozen=True)
class Number:
    """One entry. value, low, high: pooled over the pictures of all cells, with its 95 % interval; percent,
    or what the column says. prompts: the interval that draws these anew too, None of a single prompt.
    deviation: of the cells' own values, None for one cell.
    """

    value: float
    low: float
    high: float
    n: int
    cells: int
    deviation: float | None = None
    percent: bool = True
    prompts: tuple[float, float] | None = None

    def __str__(self) -> str:
        digits = 1 if self.percent else 3
        more = "" if self.deviation is None else f" ± {self.deviation:.{digits}f}"
        around = f"{self.low:.{digits}f} to {self.high:.{digits}f}"
        if self.prompts is not None and max(self.prompts) > min(self.prompts):
            around += f"; prompts {self.prompts[0]:.{digits}f} to {self.prompts[1]:.{digits}f}"
        return f"{self.value:.{digits}f}{more} ({around})"


@dataclass(frozen=True)
class Row:
    """label: what the row is; ours and paper: column -> figure, absent where there is none."""

    label: str
    ours: Mapping[str, Number] = field(default_factory=dict)
    paper: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A finished table. columns: name -> what it means; have, want: cells it is made of, and should be."""

    name: str
    title: str
    columns: Mapping[str, str]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    have: int
    want: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name, "title": self.title, "cells": self.have, "cells_wanted": self.want,
            "columns": dict(self.columns),
            "rows": [
                {"label": row.label, "paper": dict(row.paper),
                 "ours": {column: vars(number) for column, number in row.ours.items()}}
                for row in self.rows
            ],
            "notes": list(self.notes),
        }  # fmt: skip

    def markdown(self) -> str:
        """The table with ours and the paper's side by side; a dash where there is no figure."""
        told = [name for name in self.columns if any(name in row.paper for row in self.rows)]
        heads = [head for name in self.columns for head in ([name, "paper"] if name in told else [name])]
        lines = [f"# {self.title}", "", f"{self.have} of {self.want} cells.", ""]
        lines += ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
        for row in self.rows:
            entries = []
            for name in self.columns:
                entries.append(str(row.ours[name]) if name in row.ours else "–")
                if name in told:
                    entries.append(f"{row.paper[name]:g}" if name in row.paper else "–")
            lines.append(f"| {row.label} | " + " | ".join(entries) + " |")
        lines += ["", *(f"- {name}: {meaning}" for name, meaning in self.columns.items())]
        lines += [
            "",
            "In brackets: 95 % bootstrap interval over pictures, which asks for other seeds of these "
            "prompts, and behind “prompts” over prompts and the pictures of each, which asks for other "
            "prompts too; ±: standard deviation over cells, that is over splits and training seeds, where "
            "there are several. "
            f"{ALL_AGREE}",
            *(f"\n{note}" for note in self.notes),
        ]
        return "\n".join(lines) + "\n"


# Figures of the pictures that some asks want, pooled over cells


def share(
    looked: Looked,
    seeds: Sequence[int],
    rate: Rate,
    columns: Sequence[str] = ("labels",),
    target: Callable[[Ask], str | tuple[str, ...]] = lambda ask: ask.target,
    percent: bool = True,
) -> Number | None:
    """Mean of rate(entries, targets) over all pictures of the asks; None where no cell has them all.

    An entry is what a picture has in `columns`, a tuple where there are several. A picture that several asks
    or runs look at, as one of the base, counts for each of them and is one picture in the intervals.
    """
    values: list[float] = []
    pictures: list[tuple] = []
    each: list[float] = []
    for cell, asks in looked:
        found = [_entries(cell, ask, seeds, columns) for ask in asks]
        if not found or any(one is None for one in found):
            continue
        told = [target(ask) for ask in asks for _ in seeds]
        own = rate([entry for one in found for entry in one], told)
        values += own
        pictures += [(cell.spec.name, ask.prompt, ask.place, seed) for ask in asks for seed in seeds]
        each.append((100.0 if percent else 1.0) * fmean(own))
    if not each:
        return None
    pooled = metrics.of_pictures(values, pictures, percent)
    # Pictures of one word go the same way in all trainings, and all of one training: the wider of both.
    prompts = [picture[:2] for picture in pictures], [text for _, text, _, _ in pictures]
    within = [metrics.of_prompts(values, of, percent, pictures) for of in prompts]
    bounds = [bound for one in within if one is not None for bound in one]
    deviation, wider = stdev(each) if len(each) > 1 else None, (min(bounds), max(bounds)) if bounds else None
    return Number(pooled.value, pooled.low, pooled.high, pooled.n, len(each), deviation, percent, wider)


def _entries(cell: Cell, ask: Ask, seeds: Sequence[int], columns: Sequence[str]) -> list | None:
    found = [cell.column(ask, seeds, name) for name in columns]
    if any(column is None for column in found):
        return None
    return found[0] if len(found) == 1 else list(zip(*found, strict=True))


def mean(looked: Looked, seeds: Sequence[int], column: str = "distance") -> Number | None:
    """The mean of a column of numbers, with its 95 % bootstrap interval."""
    return share(looked, seeds, lambda values, _: values, (column,), percent=False)


def probability(entries: Sequence[tuple[Sequence[str], Sequence[float]]], targets: Sequence[str]) -> list:
    """Probability the judge gives to the target, percent; 0 where it is not among a picture's labels.

    Entries: of the columns "labels" and "scores".
    """
    told = [dict(zip(labels, scores, strict=True)) for labels, scores in entries]
    return [100 * one.get(target, 0.0) for one, target in zip(told, targets, strict=True)]


def esr(k: int) -> Rate:
    """ESR-k: whether the target is not among the k best labels."""
    return lambda topk, targets: [not hit for hit in metrics.found(topk, targets, k)]


def psr(k: int) -> Rate:
    """PSR-k, and of pictures with a key the recovery rate: whether the target is among the k best labels."""
    return lambda topk, targets: metrics.found(topk, targets, k)


def same(entries: Sequence[str], targets: Sequence[str]) -> list[bool]:
    """Whether a picture's one entry (a style, a background) is the target."""
    return [entry == wanted for entry, wanted in zip(entries, targets, strict=True)]


def both(topk: Sequence[Sequence[str]], targets: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether a picture's two first labels are the two targets."""
    return [set(two) <= set(labels[:2]) for labels, two in zip(topk, targets, strict=True)]


def above(threshold: float, labels: Sequence[str]) -> Rate:
    """Whether one of `labels` scores above the threshold (NER's rule).

    Entries: of the columns "labels" and "scores".
    """
    return lambda entries, _: [*(metrics.highest_scores(detections(entries), labels) > threshold)]


def detections(entries: Sequence[tuple[Sequence[str], Sequence[float]]]) -> list[list[tuple[str, float]]]:
    """Per picture (label, score), of its two columns."""
    return [list(zip(labels, scores, strict=True)) for labels, scores in entries]


def kept(figures: Mapping[str, Number | None]) -> dict[str, Number]:
    """The figures that there are."""
    return {name: number for name, number in figures.items() if number is not None}
