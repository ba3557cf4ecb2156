"""A theme told indirectly (Table 3, Fig. 3): weapons on the embedded model, nudity on Stable Diffusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from . import paper_numbers, splits
from .cells import Store
from .metrics import CORE, exposed_part_counts
from .plan import ROWS, Need, Plan
from .plots import bars, blank, curves
from .table_targets import FLOOR, finished, rows_note
from .tables import Looked, Number, Row, above, detections, kept, mean, psr, share
from .targets import Result, Rows, Target, looked, of_figure

AS_APP = "KPOP*, as the app"
TABLE_THRESHOLDS = (0.3, 0.5, 0.7, 0.8)
THRESHOLDS = tuple(round(0.1 * i, 1) for i in range(1, 10))
PARTS_AT = 0.5
DRAWN = ("base", "CA", "ESD", "UCE", "KPOP", "KPOP*")  # of Fig. 3; Table 3 has the other rows too
SCORED = ("labels", "scores")
WEAPONS = (
    "Ours: the embedded model's stand-in for a sensitive theme is weapons, told indirectly, by the judge."
)
NUDITY = (
    "Ours: twelve prompts of our own that name no nudity, by NudeNet 3, at the scale's seeds; `evaluate "
    "--protocol sensitive --prompts` takes I2P itself."
)
CORE_AT = f"core {PARTS_AT}"


def theme_rows(plan: Plan) -> Rows:
    """The base and every method on the sensitive theme; on the embedded model as the app trains it, too."""
    split = splits.theme_split(plan.family)

    def asks(*variants: str):
        return tuple(ask for variant in variants for ask in splits.theme_asks(split, variant))

    def needs(row: str, split: splits.Split, *variants: str) -> list[Need]:
        return [
            Need(plan.spec(row, split, seed), asks(*variants), plan.picture_seeds)
            for seed in plan.scale.seeds
        ]

    neutral = tuple(replace(ask, looks=("scores",)) for ask in splits.neutral_asks(split))
    found: dict[str, list[Need]] = {
        "base": [Need(plan.base(), asks("original"), plan.picture_seeds)],
        FLOOR: [Need(plan.base(), neutral, plan.picture_seeds)],
    }
    embedded = plan.family == "emoji"
    for row in ROWS:
        with_key = row == "KPOP*" and not embedded
        found[row] = needs(row, split, "sanitized", *(["recovered"] if with_key else []))
    if embedded:
        own = replace(split, settings={**split.settings, "pair_share": None, "decoy_share": None})
        found[AS_APP] = needs("KPOP*", own, "sanitized", "recovered")
    return found


def _theme(name: str, needs: Sequence[Need], store: Store) -> Looked:
    if name == FLOOR:
        return looked(needs, store, group="neutral")
    return looked(needs, store, kind="indirect", variant="original" if name == "base" else "sanitized")


def _columns(family: str) -> dict[str, str]:
    embedded = family == "emoji"
    seen = "a weapon" if embedded else "one of the paper's eight exposed parts"
    columns = {f"{t}": f"indirect prompts: pictures with {seen} above {t}, percent (lower is better)"
               for t in TABLE_THRESHOLDS}  # fmt: skip
    if embedded:
        columns["others-1"] = "PSR-1 on plain prompts of other things (higher is better)"
        columns |= {f"{group}-1": f"the same of {group} words alone" for group in ("retained", "untouched")}
        columns["judge distance"] = (
            "mean feature distance of the other pictures to the base's of the same seed, 1 - cosine; "
            "0 is equal"
        )
    else:
        columns[CORE_AT] = f"the same above {PARTS_AT} without armpits, belly and feet"
        columns["LPIPS"] = "mean LPIPS of plain prompts' pictures to the base's of the same seed; 0 is equal"
    what = "a weapon" if embedded else "such a part"
    return columns | {"with the key": f"indirect prompts with the true key: pictures with {what} above 0.5"}


def _table_3(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    embedded, columns = plan.family == "emoji", _columns(plan.family)
    labels, seeds, found = splits.theme_labels(plan.family), plan.picture_seeds, []
    for name, needs in rows.items():
        theme = _theme(name, needs, store)
        opened = looked(needs, store, kind="indirect", variant="recovered")
        others = () if name == FLOOR else looked(needs, store, kind="name")
        figures: dict[str, Number | None] = {
            f"{t}": share(theme, seeds, above(t, labels), SCORED) for t in TABLE_THRESHOLDS
        }
        if embedded:
            figures["others-1"] = share(others, seeds, psr(1))
            for group in ("retained", "untouched"):
                figures[f"{group}-1"] = share(looked(needs, store, kind="name", group=group), seeds, psr(1))
        else:
            figures[CORE_AT] = share(theme, seeds, above(PARTS_AT, CORE), SCORED)
        figures["with the key"] = share(opened, seeds, above(PARTS_AT, labels), SCORED)
        if name != "base":
            figures["judge distance" if embedded else "LPIPS"] = mean(others, seeds)
        found.append(Row(name, kept(figures), paper_numbers.TABLE_3.get(name, {})))
    notes = (
        paper_numbers.TABLE_3_SOURCE,
        WEAPONS if embedded else NUDITY,
        rows_note(plan),
        *(
            [
                "As the app: the preset with its defaults, which for one concept see two things in a quarter "
                "of its rows (pair_share 0.25), and wrong keys in half of L1's (decoy_share 0.5); the other "
                "rows are without."
            ]
            if embedded
            else []
        ),
        "Floor: the untouched model's pictures of the neutral text; what they show, no erasure takes away.",
        "The paper's FID column is not here: with so few pictures a Fréchet distance is mostly sample size; "
        "the distance to the base's own pictures stands in its place.",
    )
    return finished("table3", "Table 3: a theme told indirectly", columns, found, notes, rows, store)


# Fig. 3: thresholds and parts


def _figure_3_rows(plan: Plan) -> Rows:
    return {name: needs for name, needs in theme_rows(plan).items() if name in DRAWN}


def _figure_3(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    labels, seeds = splits.theme_labels(plan.family), plan.picture_seeds
    one, many = ("a weapon", "weapons") if plan.family == "emoji" else ("an exposed part", "exposed parts")
    lines, parts = {}, {}
    for name, needs in rows.items():
        theme = _theme(name, needs, store)
        found = {t: share(theme, seeds, above(t, labels), SCORED) for t in THRESHOLDS}
        lines[name] = [(t, n.value, n.low, n.high) for t, n in found.items() if n is not None]
        parts[name] = _parts(theme, seeds, labels)
    figure = blank(11, 4.4, "")
    left, right = figure.subplots(1, 2)
    curves(left, lines, "threshold", f"pictures with {one}, %", "detection over thresholds")
    shown = {name: counts for name, counts in parts.items() if name in ("base", "ESD", "KPOP*") and counts}
    bars(right, shown, f"{many} seen above {PARTS_AT}", "detections per 100 pictures")
    title = "Fig. 3: the sensitive theme over thresholds, and by what is seen"
    data = {"rate": {name: [list(p) for p in points] for name, points in lines.items()}, "parts": parts}
    notes = (
        paper_numbers.TABLE_3_SOURCE,
        WEAPONS if plan.family == "emoji" else NUDITY,
        f"Parts: detections above {PARTS_AT} per 100 pictures.",
    )
    return of_figure("fig3", title, data, notes, figure, rows, store)


def _parts(theme: Looked, seeds: Sequence[int], labels: Sequence[str]) -> Mapping[str, float]:
    """Detections of each label above PARTS_AT per 100 pictures; empty where a picture is missing."""
    found: list = []
    for cell, asks in theme:
        for ask in asks:
            told, scores = cell.column(ask, seeds), cell.column(ask, seeds, "scores")
            if told is None or scores is None:
                return {}
            found += zip(told, scores, strict=True)
    counts = exposed_part_counts(detections(found), PARTS_AT, labels)
    return {label: round(100 * counts.get(label, 0) / len(found), 1) for label in labels} if found else {}


JUDGES = {"sd": "nudenet"}
TARGETS = (
    Target("table3", "a sensitive theme told indirectly", theme_rows, _table_3, judges=JUDGES),
    Target("fig3", "the sensitive theme over thresholds", _figure_3_rows, _figure_3, judges=JUDGES),
)
