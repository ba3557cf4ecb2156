"""The paper's tables on this model: objects, and settings of KPOP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from . import paper_numbers, splits
from .cells import Store
from .plan import ROWS, Need, Plan
from .splits import Split
from .tables import Number, Row, Table, esr, kept, psr, share
from .targets import Result, Rows, Target, count, looked, notes_of_cells, of_table

DEPTHS = (1, 5)
ADDED = {"mechanism": "additive", "prompt_tokens_factor": 1}  # p added to the text's states
CEILING = "ceiling: base, neutral text"
FLOOR = "floor: base, neutral text"  # of a rate that is to fall, what the ceiling is of ESR
FLOOR_NOTE = (
    "Floor: the base's pictures of the neutral text, at which the erasure aims, looked through for each "
    "erased word; no erasure can be expected to show less."
)
OBJECT_COLUMNS = {
    "ESR-1": "erased words: pictures in which the judge's first label is not the word (higher is better)",
    "ESR-5": "the same with its five best labels",
    "PSR-1": "retained words: pictures in which the first label is the word (higher is better)",
    "PSR-5": "the same with its five best labels",
    "untouched-1": "the same as PSR-1 on words of neither list",
    "untouched-5": "the same as PSR-5 on words of neither list",
}
RECOVERY_COLUMN = {"recovery-1": "erased words drawn with the true key: first label is the word"}
KEPT_COLUMN = {"PSR-1 with keys": "retained words drawn with one of the keys: first label is the word"}
_ROWS_NOTE = (
    "A star: with the list of words to retain. KPOP without the star retains nothing, not even the neutral "
    "text, and aims at the neutral text alone, as in the paper's Eq. 5-7. ESD and UCE run with the embedded "
    "model's rates and steps for KPOP, CA* at four times the rate, as KPOP's held it back in the sweep "
    "(`reproduce tuning`). Both rows of KPOP have the embedded model's k = 1, p in all cross-attention "
    "layers and lambda = 1, where the paper has 10, the middle layer and 0.1."
)

_SD_ROWS_NOTE = (
    "A star: with the list of words to retain. KPOP without the star retains nothing, not even the neutral "
    "text, and aims at the neutral text alone, as in the paper's Eq. 5-7. Every method runs with the "
    "settings recommended for Stable Diffusion (kpop/model_table.py), which are not the paper's."
)


def rows_note(plan: Plan) -> str:
    """What the rows of ROWS are, by the model's family."""
    return _ROWS_NOTE if plan.family == "emoji" else _SD_ROWS_NOTE


def finished(
    name: str,
    title: str,
    columns: Mapping[str, str],
    found: Sequence[Row],
    notes: Sequence[str],
    rows: Rows,
    store: Store,
) -> Result:
    """The rows as a table with its plot; trainings that ran away are noted."""
    have, want = count(rows, store)
    return of_table(
        Table(name, title, columns, tuple(found), (*notes, *notes_of_cells(rows, store)), have, want)
    )


def cases(plan: Plan) -> Iterator[tuple[Split, int]]:
    """Every object split with every training seed."""
    for split in plan.object_splits():
        for seed in plan.scale.seeds:
            yield split, seed


def base_needs(plan: Plan) -> list[Need]:
    """The untouched model on every object split, and its pictures of the neutral text."""
    asks = [ask for split in plan.object_splits() for ask in splits.name_asks(split, "original")]
    neutral = splits.neutral_asks(*plan.object_splits())
    return [Need(plan.base(), tuple(dict.fromkeys([*asks, *neutral])), plan.picture_seeds)]


def ceiling_needs(plan: Plan, some: Iterable[Split], seeds: Sequence[int] | None = None) -> list[Need]:
    """The untouched model's pictures of the neutral text, for all words that these splits erase."""
    return [Need(plan.base(), tuple(splits.neutral_asks(*some)), tuple(seeds or plan.picture_seeds))]


def object_needs(
    plan: Plan,
    row: str,
    setting: str = "default",
    changes: Mapping[str, Any] | None = None,
    key: bool = False,
) -> list[Need]:
    """A row's cells: plain prompts of the three groups, and of the erased one with the true key too."""
    found = []
    for split, seed in cases(plan):
        asks = splits.name_asks(split)
        asks += splits.group_asks(split, "erased", "recovered") if key else []
        spec = plan.spec(row, split, seed, setting, changes)
        found.append(Need(spec, tuple(asks), plan.picture_seeds))
    return found


def object_figures(needs, store: Store, variant: str = "sanitized") -> dict[str, Number]:
    """The columns of OBJECT_COLUMNS, and recovery-1 where there are pictures with the key."""
    seeds, found = needs[0].seeds, {}
    for k in DEPTHS:
        found[f"ESR-{k}"] = share(looked(needs, store, group="erased", variant=variant), seeds, esr(k))
        for group, name in (("retained", "PSR"), ("untouched", "untouched")):
            found[f"{name}-{k}"] = share(looked(needs, store, group=group, variant=variant), seeds, psr(k))
    found["recovery-1"] = share(looked(needs, store, group="erased", variant="recovered"), seeds, psr(1))
    found["PSR-1 with keys"] = share(
        looked(needs, store, group="retained", variant="recovered"), seeds, psr(1)
    )
    return kept(found)


def ceiling(needs, store: Store) -> dict[str, Number]:
    """Share of the untouched model's pictures of the neutral text that do not show an erased word, a mean
    over the words, as in ESR. No erasure can be expected to do better.
    """
    found, seeds = looked(needs, store, group="neutral"), needs[0].seeds
    return kept({f"ESR-{k}": share(found, seeds, esr(k)) for k in DEPTHS})


def _table_2_rows(plan: Plan) -> Rows:
    return {"base": base_needs(plan)} | {row: object_needs(plan, row) for row in ROWS}


def _table_2(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    found = [
        Row("base", object_figures(rows["base"], store, "original"), paper_numbers.TABLE_2["base"]),
        Row(CEILING, ceiling(rows["base"], store)),
    ]
    for name in list(rows)[1:]:
        figures = object_figures(rows[name], store)
        found.append(Row(name, figures, paper_numbers.TABLE_2.get(name, {})))
    notes = (paper_numbers.TABLE_2_SOURCE, rows_note(plan))
    return finished(
        "table2", "Table 2: erasing five of ten objects", OBJECT_COLUMNS, found, notes, rows, store
    )


# Settings of KPOP


def sweep_rows(plan: Plan, values: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Need]]:
    """A row a setting of KPOP*, and the base."""
    found = {"base": base_needs(plan)}
    for label, changes in values.items():
        found[label] = object_needs(plan, "KPOP*", label.replace(" ", ""), changes, key=True)
    return found


def sweep_table(rows: Rows, store: Store, name: str, title: str, paper, notes, more=()) -> Table:
    """One table of sweep_rows. more: columns beside those of the objects and of recovery."""
    found = [
        Row("base", object_figures(rows["base"], store, "original")),
        Row(CEILING, ceiling(rows["base"], store)),
    ]
    for label in list(rows)[1:]:
        found.append(Row(label, object_figures(rows[label], store), paper.get(label, {})))
    have, want = count(rows, store)
    columns = OBJECT_COLUMNS | RECOVERY_COLUMN | dict(more)
    return Table(name, title, columns, tuple(found), (*notes, *notes_of_cells(rows, store)), have, want)


def _table_5_rows(plan: Plan) -> Rows:
    blocks = (1, 10) if plan.scale.name == "quick" else (1, 2, 4, 10, 20)
    values: dict[str, dict[str, Any]] = {f"k = {k}": {"prompt_tokens_factor": k} for k in blocks}
    return sweep_rows(plan, values | {"additive": ADDED})


def _table_5(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    title = "Table 5: the size of p, and how it enters"
    paper, notes = paper_numbers.TABLE_5, (paper_numbers.TABLE_5_SOURCE,)
    return of_table(sweep_table(rows, store, "table5", title, paper, notes))


def _table_6_rows(plan: Plan) -> Rows:
    return sweep_rows(plan, {sites: {"sites": sites} for sites in ("mid", "mid-up", "down-mid-up")})


def _table_6(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    title = "Table 6: the layers at which p enters"
    notes = ("The paper's figures of this table are in none of this project's sources.",)
    return of_table(sweep_table(rows, store, "table6", title, {}, notes))


TARGETS = (
    Target("table2", "erasing five of ten objects, all methods", _table_2_rows, _table_2),
    Target("table5", "size of p, concat or additive", _table_5_rows, _table_5),
    Target("table6", "layers at which p enters", _table_6_rows, _table_6),
)
