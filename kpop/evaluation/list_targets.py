"""A table that the paper lacks: what a longer list to retain, and more steps, are worth at five objects."""

from __future__ import annotations

from dataclasses import replace

from . import splits
from .cells import Store
from .plan import Need, Plan
from .splits import Split
from .table_targets import base_needs, cases, sweep_table
from .targets import Result, Rows, Target, of_table

LONGER = 2  # times the steps


def with_long_list(split: Split) -> Split:
    """The split with every word in its list to retain that the model draws and the split does not judge.

    The untouched words stay out of it, so that they still are.
    """
    told = splits.untouched_words("emoji", (*split.concepts, *split.retain_list))
    more = tuple(word for word in told if word not in split.untouched)
    return replace(split, retain_list=(*split.retain_list, *more))


def _rows(plan: Plan) -> Rows:
    kinds: list[tuple[str, str, int | None]] = [
        ("the split's list", "default", None),
        ("long list", "long-list", None),
    ]
    if plan.scale.steps is not None:  # else the preset decides on them
        kinds.append((f"long list, {LONGER} times the steps", "long-list-longer", LONGER * plan.scale.steps))
    found: dict[str, list[Need]] = {"base": base_needs(plan)}
    for method in ("KPOP*", "ESD*"):
        for label, setting, limit in kinds if method == "KPOP*" else kinds[-1:]:
            needs = found.setdefault(f"{method}, {label}", [])
            for split, seed in cases(plan):
                asks = splits.name_asks(split)
                asks += splits.group_asks(split, "erased", "recovered") if method == "KPOP*" else []
                split = split if setting == "default" else with_long_list(split)
                spec = plan.spec(method, split, seed, setting, limit=limit)
                needs.append(Need(spec, tuple(asks), plan.picture_seeds))
    return found


def _table(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    notes = (
        "The split's list is its preset's 15 words, as in Table 2. The long list has every other object too, "
        "but for the three untouched ones.",
    )
    title = "Five objects erased: a longer list to retain, and more steps"
    return of_table(sweep_table(rows, store, "lists", title, {}, notes))


TARGETS = (Target("lists", "a longer list to retain, and more steps", _rows, _table, True),)
