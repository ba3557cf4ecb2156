"""The same search for every method: learning rates x strengths on two concepts of the first split.

The sweep has seeds of its own, for trainings and pictures, that no reported figure uses; splits 2 to 4 are
never tuned on.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import harmonic_mean
from typing import Any

from ..model_table import recommended
from . import splits
from .cells import Store
from .plan import QUICK_STEPS, TUNING_PICTURE_SEED, TUNING_SEED, Need, Plan
from .table_targets import (
    CEILING,
    base_needs,
    ceiling,
    ceiling_needs,
    object_figures,
    object_needs,
    sweep_table,
)
from .tables import Number, Row, Table
from .targets import Result, Rows, Target, count, notes_of_cells, of_table

WORDS = ("church", "parachute")
RATES = (0.25, 0.5, 1.0, 2.0, 4.0)  # times the model's recommended rate
# What is called strength: how far past the neutral text L1 aims; for methods without that knob, the weight
# of what is retained. KPOP comes last: a sweep that is stopped has searched for its rivals first.
STRENGTHS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "ESD*": ("negative_guidance", (0.5, 1.0, 2.0)),
    "CA*": ("retain_weight", (0.3, 1.0, 3.0)),
    "KPOP*": ("negative_guidance", (0.0, 0.5, 1.0)),
}
# UCE has no rate: as many settings, from 0.01 to 100, of the one weight it has.
UCE_WEIGHTS = tuple(round(10 ** (-2 + 4 * i / 14), 3) for i in range(15))
# The best of each method in docs/results/tuning.md, the first of several that are alike.
CHOSEN = {
    "CA*": "CA* rate 0.002, retain weight 0.3",
    "ESD*": "ESD* rate 0.000125, negative guidance 2",
    "UCE*": "UCE* retain weight 0.072",
    "KPOP*": "KPOP* rate 0.000125, negative guidance 1",
}


def _settings(plan: Plan) -> dict[str, tuple[str, dict[str, Any]]]:
    """Row of the sweep -> (row of ROWS, changes)."""
    rate = recommended(plan.model)["learning_rate"]
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for weight in UCE_WEIGHTS:
        found[f"UCE* retain weight {weight:g}"] = ("UCE*", {"retain_weight": weight})
    for row, (knob, values) in STRENGTHS.items():
        for part in RATES:
            for value in values:
                label = f"{row} rate {rate * part:g}, {knob.replace('_', ' ')} {value:g}"
                found[label] = (row, {"learning_rate": rate * part, knob: value})
    return found


def _rows(plan: Plan) -> Rows:
    first = plan.object_splits()[0]
    alone = [splits.single_split(first, word) for word in WORDS]
    seeds = tuple(range(TUNING_PICTURE_SEED, TUNING_PICTURE_SEED + plan.scale.pictures))
    base = dict.fromkeys(ask for split in alone for ask in splits.name_asks(split, "original"))
    found: dict[str, list[Need]] = {"base": [Need(plan.base(), tuple(base), seeds)]}
    found[CEILING] = ceiling_needs(plan, alone, seeds)
    limit = min(plan.scale.steps or QUICK_STEPS, QUICK_STEPS)
    for label, (row, changes) in _settings(plan).items():
        found[label] = []
        for split in alone:
            asks = splits.name_asks(split)
            asks += splits.group_asks(split, "erased", "recovered") if row == "KPOP*" else []
            spec = plan.spec(row, split, TUNING_SEED, label, changes, limit=limit)
            found[label].append(Need(spec, tuple(asks), seeds))
    return found


def _build(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    columns = {
        "ESR-1": "erased word: pictures in which the judge's first label is not the word",
        "PSR-1": "retained words: pictures in which it is",
        "untouched-1": "words of neither list: pictures in which it is",
        "recovery-1": "with the true key: pictures in which it is",
        "score": "harmonic mean of ESR-1, PSR-1 and, with a key, recovery-1: what a setting is chosen by; in "
        "brackets that of the ends of their intervals",
    }
    made = []
    for label, needs in rows.items():
        variant = "original" if label == "base" else "sanitized"
        figures = ceiling(needs, store) if label == CEILING else object_figures(needs, store, variant)
        figures = {name: figures[name] for name in columns if name in figures}
        score = _score(figures, len(needs)) if label not in ("base", CEILING) else None
        made.append(Row(label, figures | ({"score": score} if score else {})))
    notes = (_best(made), *notes_of_cells(rows, store))
    have, want = count(rows, store)
    title = "Tuning: the same search for every method"
    return of_table(Table("tuning", title, columns, tuple(made), notes, have, want))


def _score(figures: Mapping[str, Number], cells: int) -> Number | None:
    """None where a word is missing: a setting is not chosen by half of its cells."""
    if any(name not in figures or figures[name].cells < cells for name in ("ESR-1", "PSR-1")):
        return None
    parts = [figures[name] for name in ("ESR-1", "PSR-1", "recovery-1") if name in figures]
    ends = (harmonic_mean([getattr(part, end) for part in parts]) for end in ("value", "low", "high"))
    return Number(*ends, parts[0].n, parts[0].cells)


def _best(rows: list[Row]) -> str:
    found = []
    for method in ("UCE*", *STRENGTHS):
        mine = [row for row in rows if row.label.startswith(method + " ") and "score" in row.ours]
        if mine:
            best = max(mine, key=lambda row: row.ours["score"].value)
            score = best.ours["score"]
            alike = sum(row.ours["score"].high >= score.low for row in mine) - 1
            told = f"{alike} of {len(mine) - 1} others reach its interval"
            found.append(f"{best.label} ({score.value:.1f}; {told})")
    return "Best of each method: " + ("; ".join(found) + "." if found else "no cell is there yet.")


def _tuned_rows(plan: Plan) -> Rows:
    found, settings = {"base": base_needs(plan)}, _settings(plan)
    for row, label in CHOSEN.items():
        key = row == "KPOP*"
        found[row] = object_needs(plan, row, key=key)
        found[label] = object_needs(plan, row, label, settings[label][1], key=key)
    return found


def _tuned(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    notes = (
        "Below each method with the settings it comes with (Table 2) the same with the best of the sweep, "
        "which was found on church and on parachute alone, with other seeds.",
    )
    title = "Five objects erased with the settings that the sweep chose"
    return of_table(sweep_table(rows, store, "tuned", title, {}, notes))


TARGET = Target("tuning", "5 learning rates x 3 strengths for every method", _rows, _build, apart=True)
TUNED = Target(
    "tuned", "Table 2 with the settings that the sweep chose", _tuned_rows, _tuned, embedded=True, apart=True
)
