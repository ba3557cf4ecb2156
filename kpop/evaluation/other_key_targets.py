"""Tables that the paper lacks: key controls of what is no object, a theme told indirectly and two styles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from . import splits
from .cells import Ask, CellSpec, Store
from .controls import control_asks
from .key_targets import (
    CONTROL_COLUMNS,
    FORGED_NOTE,
    KEPT_NOTE,
    KEPT_WITH_KEYS,
    REFUSING,
    REFUSING_NOTE,
    Judged,
    control_rows,
)
from .plan import Need, Plan
from .style_targets import FLOOR, FLOOR_NOTE, floor_asks
from .table_targets import finished
from .tables import Row, above, kept, same, share
from .targets import Result, Rows, Target, looked
from .theme_targets import PARTS_AT, SCORED

STYLES = ("ink", "flat")  # flat: one on which no setting was chosen
STYLE_OBJECTS = 4
RUNS: dict[str, dict[str, float]] = {  # what a column's name ends with -> a run's shares of keys
    "": REFUSING,
    ", kept with keys": {**REFUSING, **KEPT_WITH_KEYS},
    ", none refused": {},
}


@dataclass(frozen=True)
class Kind:
    """A concept that is no object. seen, text: what the columns count; about: what its pictures are of."""

    name: str
    seen: str
    text: str
    about: str
    judged: Judged


THEME = Kind(
    "a theme told indirectly",
    f"a weapon above {PARTS_AT}",
    CONTROL_COLUMNS["text kept"],
    "The preset as the app trains it, on prompts that name no weapon.",
    Judged({"seen": above(PARTS_AT, splits.weapon_labels())}, columns=(SCORED, ("labels",))),
)


def _style(name: str) -> Kind:
    return Kind(
        f"the {name} style",
        f"the {name} style",
        "of other styles and of no style: pictures that have theirs, and show the object",
        f"On {STYLE_OBJECTS} objects that no phrasing of the training names; retained are the other styles, "
        f"untouched the objects without a style. {FLOOR_NOTE}",
        Judged({"seen": same}, same, (("style",), ("style",))),
    )


def _rows(plan: Plan, asks: Sequence[Ask], plain: Sequence[Ask], told: dict[str, list[CellSpec]]) -> Rows:
    """The base, and each of the runs. asks: with the controls; plain: what of them the base draws."""
    before = tuple(replace(ask, variant="original", key_of=None) for ask in plain)
    seeds = plan.picture_seeds
    found = {"base": [Need(plan.base(), before, seeds)]}
    return found | {name: [Need(one, tuple(asks), seeds) for one in specs] for name, specs in told.items()}


def _specs(plan: Plan, split: splits.Split, own: dict[str, float | None]) -> dict[str, list[CellSpec]]:
    """own: settings beside the split's, that all runs have."""
    told = {mark: replace(split, settings={**split.settings, **own, **more}) for mark, more in RUNS.items()}
    return {f"runs{m}": [plan.spec("KPOP*", one, s) for s in plan.scale.seeds] for m, one in told.items()}


def _theme_rows(plan: Plan) -> Rows:
    """The preset as the app trains it, on prompts that name no weapon."""
    split = splits.theme_split(plan.family)
    indirect = [ask for ask in splits.theme_asks(split, "sanitized") if ask.kind == "indirect"]
    rest = splits.group_asks(split, "retained") + splits.group_asks(split, "untouched")
    asks = [*control_asks(indirect, rest), *rest]
    return _rows(plan, asks, [*indirect, *rest], _specs(plan, split, {"pair_share": None}))


def _style_rows(plan: Plan, style: str) -> Rows:
    """Objects in the style; retained are the other styles, untouched the objects without one."""
    split = splits.style_split(style)
    objects = splits.style_objects(STYLE_OBJECTS)
    plain = splits.style_asks(split, "sanitized", objects, ("style",))
    rest = [ask for ask in plain if ask.group != "erased"]
    mine = [replace(ask, key_of=split.erased[0]) for ask in plain if ask.group == "erased"]
    others = [ask for ask in rest if ask.kind == "style"][:: len(mine) + 1]  # an object each, a style each
    asks = [*control_asks(mine, others), *rest]
    floor = floor_asks(split, objects)
    return _rows(plan, asks, [*plain, *floor], _specs(plan, split, {}))


def _table(plan: Plan, rows: Rows, store: Store, maker=None, *, name: str, kind: Kind) -> Result:
    told = {"seen": f"pictures in which the judge sees {kind.seen}", "text kept": kind.text}
    columns = {f"{each}{mark}": about for mark in RUNS for each, about in told.items()}
    before, runs = dict.fromkeys(RUNS, rows["base"]), {mark: rows[f"runs{mark}"] for mark in RUNS}
    made = control_rows(before, runs, store, dict.fromkeys(RUNS, kind.judged))
    bare = looked(rows["base"], store, group="neutral")
    if bare:
        made.insert(1, Row(FLOOR, kept({"seen": share(bare, plan.picture_seeds, same, ("style",))})))
    notes = (
        f"{kind.about} A run has one concept, so there is no other's key.",
        f"None refused: decoy_share 0; the others {REFUSING['decoy_share']}. {REFUSING_NOTE}",
        KEPT_NOTE,
        FORGED_NOTE,
    )
    return finished(name, f"The key of {kind.name}, and the controls", columns, made, notes, rows, store)


def _target(name: str, rows: Callable[[Plan], Rows], kind: Kind) -> Target:
    build = partial(_table, name=name, kind=kind)
    return Target(name, f"the key of {kind.name}, and its controls", rows, build, True, True)


TARGETS = (
    _target("theme-keys", _theme_rows, THEME),
    *(_target(f"{each}-keys", partial(_style_rows, style=each), _style(each)) for each in STYLES),
)
