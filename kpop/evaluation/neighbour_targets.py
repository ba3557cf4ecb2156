"""A table that the paper lacks: what an erasure does to every word that no list names, its neighbours first.

Table 2 looks at three words of neither list; here it is all that the model draws. What shares a kind with an
erased word (a house with the church, a car with the truck) is where an erasure spills over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..emoji.world import THINGS
from . import splits
from .cells import Store
from .plan import Need, Plan
from .splits import Split
from .table_targets import DEPTHS, cases, finished
from .tables import Row, esr, kept, psr, share
from .targets import Result, Rows, Target, looked

ALL = 99  # untouched words: more than there are
# The paper's Eq. 7 aims at the neutral text itself; found on split 1, with the seeds of the sweep.
SOFTER: dict[str, Any] = {"negative_guidance": 0.0}
ROWS: Mapping[str, tuple[str, str, dict[str, Any] | None]] = {
    "CA*": ("CA*", "default", None),
    "ESD*": ("ESD*", "default", None),
    "UCE*": ("UCE*", "default", None),
    "KPOP*": ("KPOP*", "default", None),
    "KPOP*, no push": ("KPOP*", "no-push", SOFTER),
}


def neighbours(split: Split) -> tuple[str, ...]:
    """Words of neither list that are of an erased word's kind."""
    kinds = {thing.word: thing.kind for thing in THINGS}
    erased = {kinds[word] for word in split.erased}
    return tuple(word for word in split.untouched if kinds[word] in erased)


def _wide(plan: Plan) -> Plan:
    return replace(plan, scale=replace(plan.scale, untouched=ALL))


def _rows(plan: Plan) -> Rows:
    found: dict[str, list[Need]] = {label: [] for label in ("base", *ROWS)}
    for split, seed in cases(_wide(plan)):
        if seed == plan.scale.seeds[0]:
            asks = tuple(splits.name_asks(split, "original"))
            found["base"].append(Need(plan.base(), asks, plan.picture_seeds))
        for label, (row, setting, changes) in ROWS.items():
            asks = tuple(splits.name_asks(split))
            asks += tuple(splits.group_asks(split, "erased", "recovered")) if row == "KPOP*" else ()
            spec = plan.spec(row, split, seed, setting, changes)
            found[label].append(Need(spec, asks, plan.picture_seeds))
    return found


def _table(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    columns = {f"ESR-{k}": f"erased words: pictures in which the word is not among the {k} best labels"
               for k in DEPTHS}  # fmt: skip
    columns |= {
        "PSR-1": "retained words: pictures in which the first label is the word",
        "neighbours-1": "the same on words of neither list that are of an erased word's kind",
        "others-1": "the same on all other words of neither list but weapons",
        "recovery-1": "erased words drawn with the true key: first label is the word",
    }
    near = {split.name: neighbours(split) for split in _wide(plan).object_splits()}
    found, seeds = [], plan.picture_seeds
    for label, needs in rows.items():
        variant = "original" if label == "base" else "sanitized"
        figures = {}
        for k in DEPTHS:
            figures[f"ESR-{k}"] = share(looked(needs, store, group="erased", variant=variant), seeds, esr(k))
        figures["PSR-1"] = share(looked(needs, store, group="retained", variant=variant), seeds, psr(1))
        rest = looked(needs, store, group="untouched", variant=variant)
        names = near.values() if label == "base" else [near[need.spec.split] for need in needs]
        for name, wanted in (("neighbours-1", True), ("others-1", False)):
            some = [(cell, [ask for ask in asks if (ask.target in told) == wanted])
                    for (cell, asks), told in zip(rest, names, strict=True)]  # fmt: skip
            figures[name] = share(some, seeds, psr(1))
        figures["recovery-1"] = share(looked(needs, store, variant="recovered"), seeds, psr(1))
        found.append(Row(label, kept(figures)))
    notes = (
        "No push: L1 aims at the neutral text, as the paper's Eq. 7 does, and not past it "
        "(negative_guidance 0; the embedded model's default is 0.5).",
    )
    title = "What no list names: neighbours of the erased, and the rest"
    return finished("neighbours", title, columns, found, notes, rows, store)


TARGETS = (Target("neighbours", "every word that no list names", _rows, _table, True),)
