"""Tables that the paper lacks: what the app's own defaults erase and keep.

`button` does what the app does when its button is pressed, beside lists that do not grow with the concepts;
`beside` asks its runs of one concept for that beside other things;
`paper` trains with the paper's own settings; `composed` takes several concepts with the app's list, by every
method, and looks also at what no list names: styles, backgrounds and two objects in one picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ..model_table import recommended
from ..presets import PAPER
from . import splits
from .cells import Ask, CellSpec, Store
from .controls import control_asks
from .key_targets import (
    CONTROL_COLUMNS,
    FORGED_NOTE,
    KEPT_NOTE,
    KEPT_WITH_KEYS,
    REFUSING_NOTE,
    control_rows,
    pair_table,
)
from .neighbour_targets import COLUMNS, word_rows
from .plan import Need, Plan
from .splits import Split
from .table_targets import CEILING, FLOOR, FLOOR_NOTE, cases, ceiling_needs, finished
from .tables import Number, Row, both, kept, same, share
from .targets import Result, Rows, Target, looked

TUNED_ON = ("church", "truck", "gas pump", "parachute")  # words on which settings were chosen
TUNED_SPLIT = "objects-v1"
BESIDE, KEPT_BESIDE = 3, 2  # prompts of an erased word beside a retained one, and of two retained ones
ONE, FIVE = "one concept", "five at once"
JUDGED = 3  # of the retained words, one in so many in `composed`
KEPT_WHOLE = ("neighbours-1", "others-1")  # columns that are empty where the list leaves nothing out
COMPOSED_COLUMNS = {
    **{name: meaning for name, meaning in COLUMNS.items() if name not in KEPT_WHOLE},
    "style": "retained words in each of the styles, which no list names: pictures in that style",
    "background": "retained words on each of the backgrounds: pictures on that background",
    "both": "two retained words in one prompt: both are the judge's two best labels",
}


def button_split(
    words: Sequence[str], retain: Sequence[str], refusing: bool = True, with_keys: bool = False
) -> Split:
    """These words erased by the embedded model's defaults, all that is not retained either untouched.

    refusing: with the app's share of wrong keys to refuse; without any where not. with_keys: what is retained
    sees keys, too.
    """
    settings = {"pair_share": None, **(KEPT_WITH_KEYS if with_keys else {})}  # the first: the app's own
    return Split(
        name="button-" + (words[0] if len(words) == 1 else str(len(words))),
        concepts=tuple(words),
        retained=tuple(retain),
        untouched=splits.untouched_words("emoji", (*words, *retain)),
        template="a {}",
        retain_list=tuple(retain),
        settings=settings | ({"decoy_share": None} if refusing else {}),
    )


def _own_list(words: Sequence[str]) -> tuple[str, ...]:
    return recommended("emoji", words)["retain"]


def _own_steps(words: Sequence[str]) -> int:
    return recommended("emoji", words)["steps"]


def _three_of_four(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for i, word in enumerate(_own_list(words)) if i % 4 != 3)


def _twelve(words: Sequence[str]) -> tuple[str, ...]:
    return recommended("emoji", (tuple(words),))["retain"]


def _untuned(plan: Plan) -> list[str]:
    """The splits' erased words on which no setting was chosen."""
    words = (word for split in plan.object_splits() for word in split.erased)
    return list(dict.fromkeys(word for word in words if word not in TUNED_ON))


def _button_rows(plan: Plan) -> Rows:
    whole = plan.object_splits()
    ones = _untuned(plan)
    fives = [split.erased for split in whole if split.name != TUNED_SPLIT]
    found: dict[str, list[Need]] = {CEILING: ceiling_needs(plan, whole)}
    for label, told, listed, own in (
        (ONE, [(word,) for word in ones], _own_list, True),
        ("two at once", list(zip(ones[::2], ones[1::2], strict=False)), _own_list, True),
        (FIVE, fives, _own_list, True),
        ("five, all retained", fives, _own_list, False),
        ("five, three of four retained", fives, _three_of_four, False),
        ("five, twelve retained", fives, _twelve, False),
    ):
        who = "the button" if own else "KPOP*"
        for words in told:
            split = button_split(words, listed(words), refusing=own)
            asks = tuple(splits.name_asks(split, "original"))
            found.setdefault(f"base, {label}", []).append(Need(plan.base(), asks, plan.picture_seeds))
            for seed in plan.scale.seeds if own else plan.scale.seeds[:1]:
                spec = plan.spec("KPOP*", split, seed, limit=_own_steps(words))
                need = Need(spec, (*splits.name_asks(split), *_with_key(split)), plan.picture_seeds)
                found.setdefault(f"{who}, {label}", []).append(need)
    return found


def _beside_rows(plan: Plan) -> Rows:
    """The button's runs of one concept, asked for it beside words that it retains, and for two of these."""
    whole = [button_split((word,), _own_list((word,))) for word in _untuned(plan)]
    found: dict[str, list[Need]] = {"base": [], FLOOR: ceiling_needs(plan, whole), "the button": []}
    for split in whole:
        (word,) = split.erased
        others = split.retained[:: -(-len(split.retained) // BESIDE)]
        two = replace(split, concepts=(word,) * len(others), retained=others)
        for label, variants in (("base", ("original",)), ("the button", ("sanitized", "recovered"))):
            asks = [ask for variant in variants for ask in splits.pair_asks(two, variant)]
            asks += splits.kept_pair_asks(split, variants[0])[:KEPT_BESIDE]
            specs = [plan.base()]
            if label != "base":
                specs = [plan.spec("KPOP*", split, s, limit=_own_steps((word,))) for s in plan.scale.seeds]
            found[label] += [Need(spec, tuple(asks), plan.picture_seeds) for spec in specs]
    return found


def _beside_table(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    return pair_table(plan, rows, store, maker, "beside", ", by the app's own button")


def _key_rows(plan: Plan, refusing: bool = True, with_keys: bool = False) -> Rows:
    """The button's runs of one concept and of five, with every control of their keys.

    refusing, with_keys: of `button_split`.
    """
    found: dict[str, list[Need]] = {}
    fives = [split.erased for split in plan.object_splits() if split.name != TUNED_SPLIT]
    for label, told in ((ONE, [(word,) for word in _untuned(plan)]), (FIVE, fives)):
        for words in told:
            split = button_split(words, _own_list(words), refusing, with_keys)
            erased, retained = splits.group_asks(split, "erased"), splits.group_asks(split, "retained")
            asks = [*control_asks(erased, retained), *splits.name_asks(split)]
            before = (*splits.name_asks(split, "original"), *splits.neutral_asks(split))
            found.setdefault(f"base, {label}", []).append(Need(plan.base(), before, plan.picture_seeds))
            for seed in plan.scale.seeds:
                spec = plan.spec("KPOP*", split, seed, limit=_own_steps(words))
                need = Need(spec, tuple(dict.fromkeys(asks)), plan.picture_seeds)
                found.setdefault(f"the button, {label}", []).append(need)
    return found


def _key_table(plan: Plan, rows: Rows, store: Store, maker=None, name="keys", ending="", how="") -> Result:
    marks = {ONE: "", FIVE: f", {FIVE}"}  # what a column's name ends with
    base, runs = (
        {mark: rows[f"{who}, {label}"] for label, mark in marks.items() if f"{who}, {label}" in rows}
        for who in ("base", "the button")
    )
    columns = CONTROL_COLUMNS | {
        f"{name}, {FIVE}": f"{about}; of the runs of five concepts" for name, about in CONTROL_COLUMNS.items()
    }
    notes = (
        "The words and runs of `button`; of one concept a run there is no other concept's key.",
        how or f"They refuse wrong keys (decoy_share 0.5). {REFUSING_NOTE}",
        FLOOR_NOTE,
        FORGED_NOTE,
    )
    made = control_rows(base, runs, store)
    title = f"The app's own button: its key and the controls{ending}"
    return finished(name, title, columns, made, notes, rows, store)


def _unrefused_table(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    how = f"They do not refuse wrong keys, as those of `keys` do (decoy_share 0). {REFUSING_NOTE}"
    return _key_table(plan, rows, store, maker, "unrefused", ", no wrong key refused", how)


def _kept_table(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    how = f"They refuse wrong keys (decoy_share 0.5), as those of `keys`. {REFUSING_NOTE} {KEPT_NOTE}"
    return _key_table(plan, rows, store, maker, "kept-keys", ", what is retained seeing keys, too", how)


def _with_key(split: Split) -> list[Ask]:
    return splits.group_asks(split, "erased", "recovered")


def _button_table(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    found = word_rows(rows, store)
    notes = (
        "One concept: of the splits' erased those on which no setting was chosen, each alone; two at once: "
        "the same, by twos; five at once: those of each split but the first. Steps and the list to retain "
        "are those that the app comes with: twelve words for one concept, all other objects for several. "
        "A picture of the base counts once for every run that it stands beside.",
        "KPOP*: five at once by runs that refuse no wrong key (decoy_share 0), with the same list; without "
        "every fourth word of it; with the list of one concept.",
    )
    title = "What the app's own button erases and keeps"
    return finished("button", title, COLUMNS, found, notes, rows, store)


def _paper_rows(plan: Plan) -> Rows:
    word = next(word for split in plan.object_splits() for word in split.erased if word not in TUNED_ON)
    split, seed = button_split((word,), _own_list((word,))), plan.scale.seeds[0]
    asks, seeds = (*splits.name_asks(split), *_with_key(split)), plan.picture_seeds
    told = recommended(plan.model)
    rates = {name: told[name] for name in ("learning_rate", "prompt_learning_rate", "prompt_init_std")}
    found = {
        "base": [Need(plan.base(), tuple(splits.name_asks(split, "original")), seeds)],
        CEILING: ceiling_needs(plan, [split]),
    }
    for label, setting, changes in (
        ("KPOP as in the paper", "paper", {}),
        ("the same, at this model's rates", "paper-rates", rates),
    ):
        changes = {"preset": "paper", **changes}
        spec = plan.spec("KPOP", split, seed, setting, changes, limit=PAPER["steps"])
        found[label] = [Need(spec, asks, seeds)]
    own = plan.spec("KPOP*", split, seed, limit=_own_steps((word,)))
    return found | {"the button": [Need(own, asks, seeds)]}


def _paper_table(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    found = word_rows(rows, store)
    (word,) = rows["the button"][0].spec.config.concepts
    notes = (
        f"One concept, {word}: the first of the erased words on which no setting was chosen. As in the "
        "paper: `--preset paper`, the steps and rates of its section 5.1, without a list. At this model's "
        "rates: the same but for the rates of the weights and of p, and the size at which p starts. Retained "
        "are the words that the button retains; the paper's runs were told none of them.",
    )
    return finished("paper", "The paper's own settings", COLUMNS, found, notes, rows, store)


def _composed_rows(plan: Plan) -> Rows:
    found: dict[str, list[Need]] = {"base": [], CEILING: ceiling_needs(plan, plan.object_splits())}
    for split, seed in cases(plan):
        words = split.erased
        split = button_split(words, _own_list(words))
        split = replace(split, retained=split.retained[::JUDGED])
        if seed == plan.scale.seeds[0]:
            found["base"] += _words_and_scenes(plan, plan.base(), split, "original")
        for row in ("CA*", "ESD*", "UCE*", "KPOP*"):
            spec = plan.spec(row, split, seed, limit=_own_steps(words))
            found.setdefault(row, []).extend(_words_and_scenes(plan, spec, split, "sanitized"))
    return found


def _words_and_scenes(plan: Plan, spec: CellSpec, split: Split, variant: str) -> list[Need]:
    named = splits.name_asks(split, variant) + (_with_key(split) if spec.method == "KPOP*" else [])
    scenes = splits.scene_asks(split, variant)
    return [Need(spec, tuple(asks), plan.picture_seeds) for asks in (named, scenes)]


def _scene_figures(needs: Sequence[Need], store: Store) -> dict[str, Number]:
    seeds = needs[0].seeds
    return kept({
        "style": share(looked(needs, store, kind="style"), seeds, same, ("style",)),
        "background": share(looked(needs, store, kind="background"), seeds, same, ("background",),
                            target=lambda ask: ask.background),
        "both": share(looked(needs, store, kind="pair"), seeds, both,
                      target=lambda ask: (ask.target, ask.other)),
    })  # fmt: skip


def _composed_table(plan: Plan, rows: Rows, store: Store, maker=None) -> Result:
    named, scenes = (
        {label: [n for n in needs if (n.asks[0].kind == "name") == plain] for label, needs in rows.items()}
        for plain in (True, False)
    )
    found = []
    for row in word_rows(named, store):
        figures = {name: one for name, one in row.ours.items() if name not in KEPT_WHOLE}
        some = scenes[row.label]
        found.append(Row(row.label, figures | (_scene_figures(some, store) if some else {})))
    notes = (
        "Five concepts at once with the list that the app comes with, all other objects, and its steps; the "
        f"other methods likewise. Every {JUDGED}rd word of the list is judged.",
    )
    title = "Five concepts with the app's list, by method"
    return finished("composed", title, COMPOSED_COLUMNS, found, notes, rows, store)


TARGETS = (
    Target("button", "what the app's own button erases and keeps", _button_rows, _button_table, True, True),
    Target("beside", "one concept in prompts of two things", _beside_rows, _beside_table, True, True),
    Target("keys", "the key and its controls, by the app's own button", _key_rows, _key_table, True, True),
    Target("kept-keys", "the same where what is retained sees keys, too", partial(_key_rows, with_keys=True),
           _kept_table, True, True),
    Target("unrefused", "the same of runs that refuse no wrong key", partial(_key_rows, refusing=False),
           _unrefused_table, True, True),
    Target("paper", "the paper's own settings beside the app's", _paper_rows, _paper_table, True, True),
    Target("composed", "the app's list by method; styles, backgrounds", _composed_rows, _composed_table, True,
           True),
)  # fmt: skip
