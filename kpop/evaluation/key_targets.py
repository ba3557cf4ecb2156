"""Three tables that the paper lacks: key controls, phrasings not trained on, two objects in a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from . import splits
from .cells import Store
from .controls import CONTROLS, control_asks
from .list_targets import LONGER
from .plan import Need, Plan
from .table_targets import (
    ADDED,
    CEILING,
    DEPTHS,
    FLOOR,
    FLOOR_NOTE,
    base_needs,
    cases,
    ceiling,
    ceiling_needs,
    finished,
)
from .tables import Looked, Number, Rate, Row, both, esr, kept, psr, same, share
from .targets import Result, Rows, Target, looked

REFUSING = {"decoy_share": 0.5}
KEPT_WITH_KEYS = {"kept_key_share": 0.5}
REFUSED = f"; of a run trained to refuse wrong keys (decoy_share {REFUSING['decoy_share']})"
CONTROL_COLUMNS = {
    "seen-1": "pictures in which the judge's first label is the erased word",
    "seen-5": "pictures in which it is among the five best",
    "text kept": "of other words: pictures in which the first label is what the text names",
}
FORGED_NOTE = (
    "The forged key is Eq. 5 from a new random p with the sanitized weights frozen, for as many steps as "
    "the true key had. Where it recovers, the concept is hidden from text prompts only: whoever holds "
    "the weights and the base can rebuild a key."
)
REFUSING_NOTE = (
    "Refusing is ours: in half of L1's rows another p is present, random or another concept's, and the "
    "target stays the neutral one."
)
KEPT_NOTE = (
    "Kept with keys is ours, too: while the weights move half of the rows to retain see a key, the true one "
    "or a wrong one, and keep their own target (kept_key_share 0.5)."
)
PAIRED = {"pair_share": 0.25}


def _recovery_rows(plan: Plan) -> Rows:
    found: dict[str, list[Need]] = {"base": base_needs(plan), "KPOP*": [], "refusing": []}
    for split, seed in cases(plan):
        asks = control_asks(splits.group_asks(split, "erased"), splits.group_asks(split, "retained"))
        asks += [ask for ask in splits.name_asks(split) if ask.group != "erased"]
        found["KPOP*"].append(Need(plan.spec("KPOP*", split, seed), tuple(asks), plan.picture_seeds))
        spec = plan.spec("KPOP*", split, seed, "refusing", REFUSING)
        found["refusing"].append(Need(spec, tuple(asks), plan.picture_seeds))
    return found


@dataclass(frozen=True)
class Judged:
    """What pictures of one kind of concept are judged by. seen: column -> whether one shows what was erased.

    text: whether one shows what a text of the same kind names; columns: of a cell, that `seen` and it read.
    """

    seen: Mapping[str, Rate]
    text: Rate = psr(1)
    columns: tuple[tuple[str, ...], tuple[str, ...]] = (("labels",), ("labels",))


OBJECTS = Judged({f"seen-{k}": psr(k) for k in DEPTHS})


def control_rows(
    base: Mapping[str, Sequence[Need]],
    runs: Mapping[str, Sequence[Need]],
    store: Store,
    judged: Mapping[str, Judged] = MappingProxyType({}),
) -> list[Row]:
    """A row the base and each control, and of words that are not erased.

    Objects have a floor, too, where the base's needs have its pictures of the neutral text. base, runs: what
    a column's name ends with -> the needs it is of; judged: the same -> how, OBJECTS if not told.
    """
    bare = {mark: needs for mark, needs in base.items() if mark not in judged}

    def figures(needs: Mapping[str, Sequence[Need]], see: Callable[..., dict], **which: str) -> dict:
        return kept({
            f"{title}{mark}": value
            for mark, some in needs.items()
            for title, value in see(looked(some, store, **which), some[0].seeds, mark).items()
        })  # fmt: skip

    def seen(found: Looked, seeds: Sequence[int], mark: str) -> dict[str, Number | None]:
        how = judged.get(mark, OBJECTS)
        return {name: share(found, seeds, rate, how.columns[0]) for name, rate in how.seen.items()}

    def seen_and_text(found: Looked, seeds: Sequence[int], mark: str) -> dict[str, Number | None]:
        how = judged.get(mark, OBJECTS)
        text = share(found, seeds, how.text, how.columns[1], target=lambda ask: ask.other)
        return seen(found, seeds, mark) | {"text kept": text}

    def text(found: Looked, seeds: Sequence[int], mark: str) -> dict[str, Number | None]:
        plain = all(ask.kind == "name" for _, asks in found for ask in asks)
        how = OBJECTS if plain else judged.get(mark, OBJECTS)
        return {"text kept": share(found, seeds, how.text, how.columns[1])}

    def before(need: Need) -> Need:
        """The base's pictures of the texts of the last control."""
        asks = (ask for ask in need.asks if ask.variant == "other-text")
        asks = (replace(ask, variant="original", key_of=None) for ask in asks)
        return Need(next(iter(base.values()))[0].spec, tuple(asks), need.seeds)

    made = [
        Row("base, no key", figures(base, seen, group="erased", variant="original")),
        Row(FLOOR, figures(bare, seen, group="neutral")),
    ]
    for variant, name in CONTROLS.items():
        see = seen_and_text if variant == "other-text" else seen
        made.append(Row(name, figures(runs, see, group="erased", variant=variant)))
    plain = {mark: [before(need) for need in needs] for mark, needs in runs.items()}
    made.insert(-1, Row("base, another concept's text", figures(plain, seen_and_text)))
    for group in ("retained", "untouched"):
        for who, needs, variant in (("base", base, "original"), ("no key", runs, "sanitized")):
            made.append(Row(f"{who}, {group} words", figures(needs, text, group=group, variant=variant)))
    return [made[0], *(row for row in made[1:] if row.ours)]


def _recovery(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    columns = CONTROL_COLUMNS | {
        f"{name}, refusing": f"{about}{REFUSED}" for name, about in CONTROL_COLUMNS.items()
    }
    runs = {"": rows["KPOP*"], ", refusing": rows["refusing"]}
    made = control_rows({"": rows["base"]}, runs, store)
    notes = (
        FLOOR_NOTE,
        FORGED_NOTE,
        REFUSING_NOTE,
        "The paper shows recovery as pictures (Fig. 6), without figures.",
    )
    title = "Recovery: the true key and its controls"
    return finished("recovery", title, columns, made, notes, rows, store)


def _phrasing_rows(plan: Plan) -> Rows:
    base, found = [], []
    for split in plan.object_splits():
        base += [*splits.group_asks(split, "erased", "original"), *splits.phrasing_asks(split, "original")]
        asks = []
        for variant in ("sanitized", "recovered"):
            asks += [*splits.group_asks(split, "erased", variant), *splits.phrasing_asks(split, variant)]
        for seed in plan.scale.seeds:
            found.append(Need(plan.spec("KPOP*", split, seed), tuple(asks), plan.picture_seeds))
    base_need = Need(plan.base(), tuple(base), plan.picture_seeds)
    return {"base": [base_need], CEILING: ceiling_needs(plan, plan.object_splits()), "KPOP*": found}


def _phrasings(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    columns = {
        "base-1": "untouched model: pictures in which the judge's first label is the word",
        "ESR-1": "sanitized: pictures in which it is not",
        "ESR-5": "sanitized: pictures in which it is not among the five best",
        "recovery-1": "with the true key: pictures in which the first label is the word",
    }
    seeds, made = plan.picture_seeds, []
    for label, kind in (("the name", "name"), ("other phrasings", "phrasing"), ("other names", "synonym")):
        base = looked(rows["base"], store, kind=kind)
        bare = looked(rows["KPOP*"], store, kind=kind, variant="sanitized")
        opened = looked(rows["KPOP*"], store, kind=kind, variant="recovered")
        figures = {"base-1": share(base, seeds, psr(1)), "recovery-1": share(opened, seeds, psr(1))}
        figures |= {f"ESR-{k}": share(bare, seeds, esr(k)) for k in DEPTHS}
        made.append(Row(label, kept(figures)))
    made.append(Row(CEILING, ceiling(rows[CEILING], store)))
    told = ", ".join(f'"{template}"' for template in splits.UNSEEN)
    notes = (f"Phrasings that no run is trained on: {told}. Other names: chapel, lorry, and so on.",)
    title = "KPOP* on phrasings it was not trained on"
    return finished("phrasings", title, columns, made, notes, rows, store)


def _pair_needs(plan: Plan, row: str, setting: str = "default", times: int = 1) -> list[Need]:
    """A row's cells. times: as many steps; with more, two retained objects and the erased ones alone, too.

    setting: those that start with "pairs" have rows of two things; those that end with "added" have p added.
    """
    changes = {
        **(PAIRED if setting.startswith("pairs") else {}),
        **(ADDED if setting.endswith("added") else {}),
    }
    found = []
    for split, seed in cases(plan):
        asks = splits.pair_asks(split, "sanitized") + splits.group_asks(split, "retained")
        asks += splits.pair_asks(split, "recovered") if row == "KPOP*" else []
        spec = plan.spec(row, split, seed, setting, changes or None)
        if times > 1:
            spec = plan.spec(row, split, seed, setting, changes or None, limit=times * spec.config.steps)
            asks += splits.kept_pair_asks(split, "sanitized") + splits.group_asks(split, "erased")
            asks += splits.group_asks(split, "erased", "recovered")
        found.append(Need(spec, tuple(asks), plan.picture_seeds))
    return found


def _pair_base(plan: Plan, two_kept: bool = False) -> list[Need]:
    asks = []
    for split in plan.object_splits():
        asks += splits.pair_asks(split, "original") + splits.group_asks(split, "retained", "original")
        asks += splits.kept_pair_asks(split, "original") if two_kept else []
    return [Need(plan.base(), tuple(asks), plan.picture_seeds)]


def _pair_rows(plan: Plan) -> Rows:
    found = {"base": _pair_base(plan), FLOOR: ceiling_needs(plan, plan.object_splits())}
    found |= {row: _pair_needs(plan, row) for row in ("ESD", "UCE", "KPOP", "ESD*", "KPOP*")}
    return found | {f"{row}, pairs": _pair_needs(plan, row, "pairs") for row in ("ESD*", "KPOP*")}


def _longer_pair_rows(plan: Plan) -> Rows:
    return {
        "base": _pair_base(plan, two_kept=True),
        FLOOR: ceiling_needs(plan, plan.object_splits()),
        "KPOP*": _pair_needs(plan, "KPOP*", "longer", LONGER),
        "KPOP*, pairs": _pair_needs(plan, "KPOP*", "pairs-longer", LONGER),
        "KPOP*, pairs, p added": _pair_needs(plan, "KPOP*", "pairs-longer-added", LONGER),
    }


def pair_table(plan: Plan, rows: Rows, store: Store, maker=None, name="pairs", ending="", more=()) -> Result:
    """Of prompts of two things: what is still seen, what stays, what the key opens."""
    columns = {
        "erased": "pictures in which the erased object is among the judge's five best (lower is better)",
        "other": "pictures in which the other object is (higher is better)",
        "background": "pictures on the background that was asked for (higher is better)",
        "retained": "plain prompts of retained words: pictures in which the first label is the word",
        "two kept": "two retained objects and none erased: pictures in which both are the two first labels",
        "with the key": "with the true key: pictures in which the erased object is among the five best",
        "alone": "plain prompts of the erased word: pictures in which it is among the five best",
        "alone with the key": "the same with the true key",
    }
    seeds, made = plan.picture_seeds, []
    for label, needs in rows.items():
        variant = "original" if label == "base" else "sanitized"
        found = looked(needs, store, kind="pair", variant=variant, group="erased")
        two = looked(needs, store, kind="pair", variant=variant, group="retained")
        plain = looked(needs, store, kind="name", variant=variant, group="retained")
        alone = looked(needs, store, kind="name", variant=variant, group="erased")
        alone_opened = looked(needs, store, kind="name", variant="recovered")
        opened = looked(needs, store, kind="pair", variant="recovered")
        figures = {
            "erased": share(found, seeds, psr(5)),
            "other": share(found, seeds, psr(5), target=lambda ask: ask.other),
            "background": share(found, seeds, same, ("background",), lambda ask: ask.background),
            "retained": share(plain, seeds, psr(1)),
            "two kept": share(two, seeds, both, target=lambda ask: (ask.target, ask.other)),
            "with the key": share(opened, seeds, psr(5)),
            "alone": share(alone, seeds, psr(5)),
            "alone with the key": share(alone_opened, seeds, psr(5)),
        }
        made.append(Row(label, kept(figures)))
    bare = share(looked(rows[FLOOR], store, group="neutral"), seeds, psr(5))
    told = [name for name in ("erased", "alone") if any(name in row.ours for row in made)]
    made = [Row(FLOOR, kept(dict.fromkeys(told, bare))) if row.label == FLOOR else row for row in made]
    notes = (
        FLOOR_NOTE,
        "One erased and one retained object on a background. The base itself often draws one of two.",
        "Pairs: a quarter of the rows of the concept are of it beside a retained word, and aim at another "
        "retained word in its place (pair_share 0.25); in another wording than that of these prompts.",
        *more,
    )
    told = {key: about for key, about in columns.items() if any(key in row.ours for row in made)}
    return finished(
        name, f"Two objects, one of them erased{ending}", told or columns, made, notes, rows, store
    )


def _longer_pairs(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    more = ("p added: to the text's states, and not beside them (mechanism additive), as in Table 5.",)
    return pair_table(plan, rows, store, maker, "longer-pairs", f", after {LONGER} times the steps", more)


TARGETS = (
    Target("recovery", "the true key and its controls", _recovery_rows, _recovery),
    Target("phrasings", "phrasings not trained on", _phrasing_rows, _phrasings),
    Target("pairs", "two objects, one erased", _pair_rows, pair_table),
    Target("longer-pairs", "the same after twice the steps", _longer_pair_rows, _longer_pairs, apart=True),
)
