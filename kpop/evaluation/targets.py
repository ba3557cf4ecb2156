"""What `python -m kpop reproduce` can make; a target is rows of cells, and a result that is built of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..disk import write_json, write_text
from ..errors import InputError
from .cells import Ask, Store
from .detectors import LEAST_PROBABILITY
from .plan import Need, Plan, check_judge, is_whole, merged
from .tables import Looked, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .cell_maker import Maker

Rows = Mapping[str, Sequence[Need]]  # row of a table, or line of a figure -> the cells it is made of


@dataclass(frozen=True)
class Result:
    """A table or a figure that is finished. data: what the JSON file holds."""

    name: str
    data: Mapping[str, Any]
    markdown: str
    figure: Figure


@dataclass(frozen=True)
class Target:
    """rows: what it needs; build: the result, of what the store holds, without drawing anything.

    build's last argument is for Fig. 2 alone, whose maps are made from a run's weights and not from
    predictions. embedded: it is about what only the embedded model draws. apart: `all` leaves it out, so that
    it stays within three hours on two cores; it is made when it is named. judges: model family -> the
    detector that looks, where it is not the family's own.
    """

    name: str
    title: str
    rows: Callable[[Plan], Rows]
    build: Callable[[Plan, Rows, Store, Maker | None], Result]
    embedded: bool = False
    apart: bool = False
    judges: Mapping[str, str] = field(default_factory=dict)

    def plan(self, told: Plan) -> Plan:
        """The command's plan with this target's judge."""
        return replace(told, judge=self.judges.get(told.family, told.judge))

    def needs(self, plan: Plan) -> list[Need]:
        """Every need of every row."""
        return [need for needs in self.rows(plan).values() for need in needs]


FEWER = (
    f"It names no label to which it gives less than {LEAST_PROBABILITY:g}, so that its five best may be "
    "fewer, and figures of five are near those of one."
)
# What cannot be made, in one sentence each.
ABSENT = {
    "table7": "Table 7 of the paper is in none of the sources this project was built from, so there is no "
    "command for it.",
}


def targets() -> dict[str, Target]:
    """Every target by name, in the order in which `all` makes them."""
    from . import (
        attention_targets,
        button_targets,
        figure_targets,
        key_targets,
        list_targets,
        neighbour_targets,
        other_key_targets,
        part_targets,
        style_targets,
        table_targets,
        theme_targets,
        tuning,
    )

    found = [
        *table_targets.TARGETS,
        *theme_targets.TARGETS,
        *style_targets.TARGETS,
        *key_targets.TARGETS,
        *list_targets.TARGETS,
        *neighbour_targets.TARGETS,
        *button_targets.TARGETS,
        *other_key_targets.TARGETS,
        *part_targets.TARGETS,
        *attention_targets.TARGETS,
        *figure_targets.TARGETS,
        tuning.TUNED,
        tuning.TARGET,
    ]
    return {target.name: target for target in found}


def named(names: Sequence[str]) -> list[Target]:
    """The targets of these names, each once; "all" for every one that is not apart. Raises InputError."""
    known, found = targets(), {}
    for name in names:
        if name in ABSENT:
            raise InputError(ABSENT[name])
        if name not in known and name != "all":
            raise InputError(f"There is no {name[:40]!r} to reproduce; there are: {', '.join(known)}, all.")
        every = [target for target in known.values() if not target.apart]
        found |= {target.name: target for target in (every if name == "all" else [known[name]])}
    return list(found.values())


def check(target: Target, plan: Plan, judge: object) -> None:
    """Raises InputError when a target cannot be made on this model or with this judge."""
    if target.embedded and plan.family != "emoji":
        raise InputError(
            f"{target.name} is about words that only the embedded model has; `evaluate` takes prompt lists "
            "for other models."
        )
    check_judge(judge, target.needs(plan), target.name)


def count(rows: Rows, store: Store) -> tuple[int, int]:
    """How many cells are whole, and how many there should be."""
    cells = merged(need for needs in rows.values() for need in needs)
    return sum(is_whole(store, spec, wanted) for spec, wanted in cells), len(cells)


def notes_of_cells(rows: Rows, store: Store) -> tuple[str, ...]:
    """How good the judge is, and the rows in which a training ran away, so that a cell has no pictures."""
    abouts = {label: [store.load(need.spec).about for need in needs] for label, needs in rows.items()}
    embedded = any(need.spec.judge == "emoji" for needs in rows.values() for need in needs)
    accuracies = {about.get("judge_accuracy") for found in abouts.values() for about in found} - {None}
    away = [label for label, found in abouts.items() if any("failed" in about for about in found)]
    return (
        *(f"The judge is right on {one:.1f} % of held-out pictures." for one in sorted(accuracies)),
        *([FEWER] if embedded else []),
        *([f"Trainings that ran away, and are in no figure: {'; '.join(away)}."] if away else []),
    )


def looked(needs: Iterable[Need], store: Store, **which: object) -> Looked:
    """(cell, asks) of the needs, only asks whose fields have these values: group="erased", kind="name"."""
    found = []
    for need in needs:
        asks = [ask for ask in need.asks if _is(ask, which)]
        if asks:
            found.append((store.load(need.spec), asks))
    return found


def _is(ask: Ask, which: Mapping[str, object]) -> bool:
    return all(getattr(ask, name) == value for name, value in which.items())


def of_table(table: Table) -> Result:
    """A table with its plot."""
    from .plots import forest

    return Result(table.name, table.to_dict(), table.markdown(), forest(table))


def of_figure(
    name: str,
    title: str,
    data: dict,
    notes: Sequence[str],
    figure: Figure,
    rows: Rows,
    store: Store,
    table: str = "",
) -> Result:
    """A figure with what it shows, and how many of its cells there are. table: Markdown above the notes."""
    have, want = count(rows, store)
    parts = [f"# {title}", f"{have} of {want} cells.", *([table] if table else []), *notes]
    text = "\n\n".join(parts) + "\n"
    return Result(name, {"name": name, "title": title, "cells": have, "cells_wanted": want, **data,
                         "notes": list(notes)}, text, figure)  # fmt: skip


def _cells_of(path: Path, told: Mapping[str, Any]) -> int:
    """Cells that a result is of; 0 where there is none, or none of this model and as many steps."""
    try:
        found = json.loads(path.read_text("utf-8"))
        alike = all(found[name] == told[name] for name in ("model_hash", "steps"))
        return int(found["cells"]) if alike else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def write_result(result: Result, out: Path, plan: Plan) -> list[Path]:
    """NAME.json, NAME.md, NAME.png and NAME.svg in `out`; [] where what is there is of more cells, and stays.

    Raises RunError.
    """
    from .plots import KINDS, save

    told = {**result.data, "scale": str(plan.scale), "steps": plan.scale.steps}
    told["model_hash"] = plan.model_hash
    if _cells_of(out / f"{result.name}.json", told) > told["cells"]:
        return []
    write_json(out / f"{result.name}.json", told)
    about = f"\nScale: {plan.scale}.\n\n![{result.name}]({result.name}.png)\n"
    write_text(out / f"{result.name}.md", result.markdown + about)
    pictures = [save(result.figure, out / f"{result.name}.{kind}") for kind in KINDS]
    return [out / f"{result.name}.json", out / f"{result.name}.md", *pictures]
