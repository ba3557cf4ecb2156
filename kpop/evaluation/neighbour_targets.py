"""Tables that the paper lacks: what an erasure does to every word that no list names, its neighbours first.

Table 2 looks at three words of neither list; here it is all that the model draws. What shares a kind with an
erased word (a house with the church, a car with the truck) is where an erasure spills over. `neighbours`
takes five of ten objects, as Table 2 does, by every method; `softer` by settings of KPOP*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..emoji.world import THINGS
from . import splits
from .cells import Store
from .plan import Need, Plan
from .table_targets import ADDED, CEILING, DEPTHS, cases, ceiling, ceiling_needs, finished
from .tables import Looked, Number, Row, esr, kept, psr, share
from .targets import Result, Rows, Target, looked

ALL = 99  # untouched words: more than there are
# The paper's Eq. 7 aims at the neutral text itself; found on split 1, with the seeds of the sweep.
SOFTER: dict[str, Any] = {"negative_guidance": 0.0}
# L1 as CA has it: what it trains, its rate and trajectories. lambda: of 0.1, 0.3 and 1, found likewise.
AS_CA: dict[str, Any] = {
    **SOFTER, "erase_on": "neutral", "trainable": "kv", "learning_rate": 2e-3, "lambda_": 0.3,
}  # fmt: skip
Kinds = Mapping[str, tuple[str, str, dict[str, Any] | None]]  # label -> row of plan.ROWS, setting, changes
METHODS: Kinds = {row: (row, "default", None) for row in ("CA*", "ESD*", "UCE*", "KPOP*")}
SETTINGS: Kinds = {
    "KPOP*": METHODS["KPOP*"],
    "KPOP*, no push": ("KPOP*", "no-push", SOFTER),
    "KPOP*, L1 as CA": ("KPOP*", "l1-as-ca", AS_CA),
    "KPOP*, p added": ("KPOP*", "additive", ADDED),
}
KINDS: Mapping[str, str] = {thing.word: thing.kind for thing in THINGS}
COLUMNS: Mapping[str, str] = {
    **{f"ESR-{k}": f"erased words: pictures without the word among the {k} best labels" for k in DEPTHS},
    "PSR-1": "retained words: pictures in which the first label is the word",
    "PSR-5": "the same with its five best labels",
    "neighbours-1": "the same as PSR-1 on words of neither list that are of an erased word's kind",
    "others-1": "the same on all other words of neither list but weapons",
    "recovery-1": "erased words drawn with the true key: first label is the word",
}


def _wide(plan: Plan) -> Plan:
    return replace(plan, scale=replace(plan.scale, untouched=ALL))


def _rows(kinds: Kinds, plan: Plan) -> Rows:
    found: dict[str, list[Need]] = {"base": [], CEILING: ceiling_needs(plan, plan.object_splits())}
    found |= {label: [] for label in kinds}
    for split, seed in cases(_wide(plan)):
        if seed == plan.scale.seeds[0]:
            asks = tuple(splits.name_asks(split, "original"))
            found["base"].append(Need(plan.base(), asks, plan.picture_seeds))
        for label, (row, setting, changes) in kinds.items():
            asks = tuple(splits.name_asks(split))
            asks += tuple(splits.group_asks(split, "erased", "recovered")) if row == "KPOP*" else ()
            spec = plan.spec(row, split, seed, setting, changes)
            found[label].append(Need(spec, asks, plan.picture_seeds))
    return found


def _untouched(needs: Iterable[Need], store: Store, near: bool) -> Looked:
    """The asks of words of neither list that are, or are not, of the kind of a word that the need erases."""
    found = []
    for need in needs:
        kinds = {KINDS[ask.target] for ask in need.asks if ask.group == "erased"}
        for cell, asks in looked([need], store, group="untouched"):
            some = [ask for ask in asks if (KINDS[ask.target] in kinds) == near]
            found += [(cell, some)] if some else []
    return found


def word_figures(needs: Sequence[Need], store: Store) -> dict[str, Number]:
    """The columns of COLUMNS, of the variant that the needs draw; recovery-1 where there is a key."""
    found, seeds = {}, needs[0].seeds
    erased = looked(needs, store, group="erased", key_of=None)
    for k in DEPTHS:
        found[f"ESR-{k}"] = share(erased, seeds, esr(k))
        found[f"PSR-{k}"] = share(looked(needs, store, group="retained"), seeds, psr(k))
    for name, near in (("neighbours-1", True), ("others-1", False)):
        found[name] = share(_untouched(needs, store, near), seeds, psr(1))
    found["recovery-1"] = share(looked(needs, store, variant="recovered"), seeds, psr(1))
    return kept(found)


def word_rows(rows: Rows, store: Store) -> list[Row]:
    """A row of word_figures each, but for CEILING."""
    return [
        Row(label, ceiling(needs, store) if label == CEILING else word_figures(needs, store))
        for label, needs in rows.items()
    ]


def _table(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    found = word_rows(rows, store)
    title = "What no list names: neighbours of the erased, and the rest"
    return finished("neighbours", title, COLUMNS, found, (), rows, store)


def _softer_table(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    found = word_rows(rows, store)
    notes = (
        "No push: L1 aims at the neutral text, as the paper's Eq. 7 does, and not past it "
        "(negative_guidance 0; the embedded model's default is 0.5).",
        "L1 as CA: no push, on trajectories of the neutral text alone (erase_on neutral), moving keys and "
        "values (trainable kv) at CA's rate (2e-3), with lambda 0.3 beside it.",
        "p added: to the text's states, and not beside them (mechanism additive), as in Table 5.",
    )
    title = "What no list names, by settings of KPOP*"
    return finished("softer", title, COLUMNS, found, notes, rows, store)


TARGETS = (
    Target("neighbours", "every word that no list names", partial(_rows, METHODS), _table, True),
    Target("softer", "the same by settings of KPOP*", partial(_rows, SETTINGS), _softer_table, True, True),
)
