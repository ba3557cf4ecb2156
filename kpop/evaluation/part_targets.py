"""Two tables that the paper lacks: what each part of ours is worth, and what it costs to join the names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from . import splits
from .cells import Store
from .plan import Need, Plan
from .splits import Split
from .table_targets import KEPT_COLUMN, base_needs, cases, object_needs, sweep_rows, sweep_table
from .targets import Result, Rows, Target, of_table

PARTS: dict[str, dict[str, Any]] = {
    "all of it": {},
    "siblings not held with the key": {"key_retain_weight": 0.0},
    "no share of the rows for near siblings": {"near_share": 0.0},
    "no steps for the key alone": {"key_share": 0.0},
}


def joined(split: Split) -> Split:
    """The split with its concepts as one text, "cassette, church, ...", and so with one key."""
    return replace(split, concepts=(", ".join(split.erased),))


def _part_rows(plan: Plan) -> Rows:
    """The sweep, and what is retained drawn with a key too: one of the parts is there for that."""
    found = sweep_rows(plan, PARTS)
    for label in PARTS:
        found[label] = [
            replace(need, asks=(*need.asks, *splits.retained_asks_with_keys(split)))
            for need, (split, _) in zip(found[label], cases(plan), strict=True)
        ]
    return found


def _parts(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    notes = (
        "Each row leaves out one part that is ours and not the paper's: key_retain_weight, near_share and "
        "key_share of the settings.",
    )
    title = "KPOP* without one of its parts"
    return of_table(sweep_table(rows, store, "parts", title, {}, notes, KEPT_COLUMN))


def _joined_rows(plan: Plan) -> Rows:
    needs = []
    for split, seed in cases(plan):
        spec = plan.spec("KPOP*", joined(split), seed, "joined")
        needs.append(Need(spec, tuple(splits.name_asks(split)), plan.picture_seeds))
    return {"base": base_needs(plan), "a concept each": object_needs(plan, "KPOP*"), "one joined text": needs}


def _joined(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    notes = (
        "Joined: one concept that is written as all five names, as some public code takes several; the same "
        "steps, of which each then sees all of them.",
    )
    title = "Five concepts erased one by one, or as one text of joined names"
    return of_table(sweep_table(rows, store, "joined", title, {}, notes))


TARGETS = (
    Target("parts", "what each part of ours is worth", _part_rows, _parts),
    Target("joined", "several concepts, or one of joined names", _joined_rows, _joined),
)
