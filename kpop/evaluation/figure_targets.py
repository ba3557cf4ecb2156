"""The paper's figures on this model: curves and grids of pictures from cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from . import paper_numbers, splits
from .cells import Ask, Store
from .plan import QUICK_STEPS, Need, Plan
from .plots import blank, curves, picture_grid
from .splits import Split
from .table_targets import sweep_rows, sweep_table
from .tables import Number, probability, share
from .targets import Result, Rows, Target, looked, of_figure

if TYPE_CHECKING:
    from PIL.Image import Image

WORD = "church"  # what Fig. 4 follows
LAMBDAS = (0.01, 0.1, 1.0, 10.0)
PAPERS_RECOVERABLE = 1.0  # the lambda of the paper's Fig. 6


def _points(numbers: Mapping[float, Number | None]) -> list[tuple[float, float, float, float]]:
    return [(x, n.value, n.low, n.high) for x, n in numbers.items() if n is not None]


# Fig. 4: p and the pictures over the training


def _steps(last: int) -> tuple[int, ...]:
    return tuple(max(1, round(last * part)) for part in (1 / 12, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 1))


def _followed(plan: Plan) -> Split:
    return splits.single_split(plan.object_splits()[0], WORD)


def _figure_4_rows(plan: Plan) -> Rows:
    split, found = _followed(plan), {}
    pictures = (splits.group_asks(split, "erased")[0], Ask("", WORD, "neutral"))
    asks = [replace(ask, kind="step", looks=("scores",)) for ask in pictures]
    base = tuple(replace(ask, variant="original") for ask in asks)
    found["base"] = [Need(plan.base(), base, plan.picture_seeds)]
    last = min(plan.scale.steps or QUICK_STEPS, QUICK_STEPS)
    steps = tuple(dict.fromkeys(_steps(last)))
    for row in ("KPOP*", "ESD"):
        spec = plan.spec(row, split, plan.scale.seeds[0], "over-steps", steps=steps, limit=last)
        told = tuple(replace(ask, step=step) for step in steps for ask in asks)
        found[row] = [Need(spec, told, plan.picture_seeds)]
    return found


def _figure_4(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    spec = rows["KPOP*"][0].spec
    history = store.load(spec).history
    figure, data = blank(18, 4.2, ""), {}
    panels = figure.subplots(1, 4)
    for axes, kind, title in zip(
        panels, ("raw", "seen"), ("a: p itself", "a': as layers see it"), strict=False
    ):
        cosines = _cosines(history, spec.config, kind)
        curves(axes, cosines, "step", "cosine", f"{title}, and texts ({WORD})", percent=False)
        data[kind] = {name: [p[:2] for p in points] for name, points in cosines.items()}
    for axes, row, letter in zip(panels[2:], ("KPOP*", "ESD"), "bc", strict=True):
        lines = _alignment(plan, rows, store, row)
        curves(axes, lines, "step", "judge's probability, %", f"{letter}: {row}")
        data[row] = {name: [list(p) for p in points] for name, points in lines.items()}
    notes = (
        "a: cosine of p with a text's states, as the paper has it; a': of both as a layer's values, less "
        "what it has for the empty text, mean over layers.",
        "b, c: the paper plots CLIP alignment of texts and pictures. Here it is the probability that the "
        "judge gives to the concept c_e in pictures of it (x_e) and of the neutral text (x_n), and to "
        "nothing (c_n) in x_n.",
        f"One concept, {WORD}; step 0 is the base.",
    )
    title = "Fig. 4: what p and the pictures become over the training"
    return of_figure("fig4", title, data, notes, figure, rows, store)


def _cosines(history: Sequence[dict], config, kind: str) -> dict[str, list]:
    """Lines of a cosine that the trainer notes, "raw" or "seen"; the neutral text's is 0 in the latter."""
    if not history:
        return {}
    told = history[-1][kind]
    neutral = config.neutral or ""
    siblings = [text for text in told if text not in (WORD, neutral)]
    lines = {WORD: [], "siblings, mean": [], "neutral text": []}
    for row in history:
        seen = row[kind]
        middle = [seen[text] for text in siblings]
        values = (seen.get(WORD), sum(middle) / len(middle) if middle else None, seen.get(neutral))
        for name, value in zip(lines, values, strict=True):
            if value is not None and (kind == "raw" or name != "neutral text"):
                lines[name].append((row["step"], value, value, value))
    return {name: points for name, points in lines.items() if points}


def _alignment(plan: Plan, rows: Rows, store: Store, row: str) -> dict[str, list]:
    spec = rows[row][0].spec
    lines: dict[str, dict[float, Number | None]] = {"c_e in x_e": {}, "c_e in x_n": {}, "c_n in x_n": {}}
    columns, seeds = ("labels", "scores"), plan.picture_seeds
    for step in (0, *spec.steps):
        needs = rows["base"] if step == 0 else rows[row]
        which = {"kind": "step", "step": step or None}
        of_word = looked(needs, store, group="erased", **which)
        neutral = looked(needs, store, group="neutral", **which)
        lines["c_e in x_e"][step] = share(of_word, seeds, probability, columns, percent=False)
        lines["c_e in x_n"][step] = share(neutral, seeds, probability, columns, percent=False)
        none = share(neutral, seeds, probability, columns, lambda ask: "none", percent=False)
        lines["c_n in x_n"][step] = none
    return {name: _points(numbers) for name, numbers in lines.items()}


# Fig. 5: lambda


def _figure_5_rows(plan: Plan) -> Rows:
    return sweep_rows(plan, {f"lambda = {value:g}": {"lambda_": value} for value in LAMBDAS})


def _figure_5(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    title = "Fig. 5: lambda trades erasing against keeping and recovery"
    table = sweep_table(rows, store, "fig5", title, {}, ())
    values = {f"lambda = {value:g}": value for value in LAMBDAS}
    lines = {}
    for column in ("ESR-5", "PSR-5", "untouched-5", "recovery-1"):
        lines[column] = _points(
            {values[r.label]: r.ours.get(column) for r in table.rows if r.label in values}
        )
    for column in ("ESR-5", "PSR-5"):
        found = [(x, row[column]) for x, row in paper_numbers.FIG_5.items() if column in row]
        lines[f"paper's {column}"] = [(x, y, y, y) for x, y in found]
    figure = blank(8, 5, f"{title}  ·  {table.have} of {table.want} cells")
    curves(figure.subplots(), lines, "lambda", "pictures, %", logarithmic=True)
    data = table.to_dict() | {"paper": {str(x): dict(row) for x, row in paper_numbers.FIG_5.items()}}
    return Result("fig5", data, table.markdown(), figure)


# Fig. 6 to 12: pictures


def with_pictures(asks: Sequence[Ask]) -> tuple[Ask, ...]:
    return tuple(replace(ask, looks=("picture",)) for ask in asks)


def kept_pictures(need: Need, store: Store, ask: Ask) -> list[Image]:
    """What the cell keeps of an ask's pictures; none where one is missing."""
    from .cell_maker import unpacked

    return [unpacked(text) for text in store.load(need.spec).column(ask, need.seeds, "picture") or ()]


def _figure_6_rows(plan: Plan) -> Rows:
    split, seeds = plan.object_splits()[0], plan.grid_seeds[:2]
    changes = {"lambda_": PAPERS_RECOVERABLE}
    spec = plan.spec("KPOP*", split, plan.scale.seeds[0], f"lambda={PAPERS_RECOVERABLE:g}", changes)
    found = {
        "original": [Need(plan.base(), with_pictures(splits.group_asks(split, "erased", "original")), seeds)]
    }
    for variant in ("sanitized", "recovered"):
        found[variant] = [Need(spec, with_pictures(splits.group_asks(split, "erased", variant)), seeds)]
    return found


def _figure_6(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    shown = {
        name: [image for ask in needs[0].asks for image in kept_pictures(needs[0], store, ask)]
        for name, needs in rows.items()
    }
    asks, seeds = rows["original"][0].asks, rows["original"][0].seeds
    heads = [f"{ask.target}\nseed {seed}" for ask in asks for seed in seeds]
    title = "Fig. 6: what the key brings back, lambda 1"
    note = "Same seeds in every row; nothing was picked."
    figure = picture_grid(shown, heads, title, note=note)
    return of_figure("fig6", title, {"prompts": [ask.prompt for ask in asks], "seeds": list(seeds)}, (note,),
                   figure, rows, store)  # fmt: skip


def _object_grid(number: int, row: str, about: str) -> Target:
    """Fig. 7 to 10: objects x seeds of one method, on the first split."""
    name, title = f"fig{number}", f"Fig. {number}: {about}"

    def rows(plan: Plan) -> Rows:
        split = plan.object_splits()[0]
        base = row == "base"
        spec = plan.base() if base else plan.spec(row, split, plan.scale.seeds[0])
        variant = "original" if base else "sanitized"
        groups = ("erased", "retained")
        asks = [ask for group in groups for ask in splits.group_asks(split, group, variant)]
        return {row: [Need(spec, with_pictures(asks), plan.grid_seeds)]}

    def build(plan: Plan, found: Rows, store: Store, maker=None) -> Result:
        need = found[row][0]
        shown = {f"{ask.target} ({ask.group})": kept_pictures(need, store, ask) for ask in need.asks}
        note = "The upper five are erased, the lower five are not; nothing was picked."
        figure = picture_grid(shown, [f"seed {seed}" for seed in need.seeds], title, note=note)
        data = {"prompts": [ask.prompt for ask in need.asks], "seeds": list(need.seeds)}
        return of_figure(name, title, data, (note,), figure, found, store)

    return Target(name, about, rows, build)


TARGETS = (
    Target("fig4", "p and alignment over the training", _figure_4_rows, _figure_4),
    Target("fig5", "lambda sweep", _figure_5_rows, _figure_5),
    Target("fig6", "pictures with the key", _figure_6_rows, _figure_6),
    _object_grid(7, "base", "pictures of the untouched model"),
    _object_grid(8, "ESD", "pictures after ESD"),
    _object_grid(9, "UCE", "pictures after UCE"),
    _object_grid(10, "KPOP*", "pictures after KPOP with a list to retain"),
)
