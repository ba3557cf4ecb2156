"""Prompt lists: what detectors and scores say of every picture, and the figures by group, the base beside.

Protocol `csv` counts labels (ESR-k, PSR-k), `sensitive` exposed parts over thresholds (NER-t). Both add the
scores of scores.py. Every picture's answer is kept in predictions.csv as it is made, with its digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..disk import write_json
from ..errors import InputError
from .detectors import Detector
from .metrics import (
    THRESHOLDS,
    Estimate,
    erasing_success_rate,
    exposed_part_counts,
    mean_score,
    nudity_exposure_rates,
    preserving_success_rate,
    recovery_rate,
)
from .picture_folders import Paths, digest, opened_picture, stream
from .predictions import Predictions
from .prompt_table import ALL, Case, batches
from .protocol import DEPTHS, NEUTRAL, SEPARATOR, VARIANTS
from .scores import Scores

COLUMNS = (
    "case", "group", "label", "prompt", "seed", "variant", "picture", "found",
    "text_score", "name_score", "rest_score", "base_distance",
)  # fmt: skip
# What a score of pictures and texts is asked for; the latter two where the labels are artists or styles.
TEXTS: dict[str, tuple[str, Callable[[Case], str]]] = {
    "text_score": ("", lambda case: case.prompt),
    "name_score": (", name alone", lambda case: case.name),
    "rest_score": (", without the name", lambda case: case.unnamed),
}
INDIRECT, OTHERS = "indirect", "others"
ORDER = ("erased", "retained", "untouched", INDIRECT, OTHERS, ALL, NEUTRAL)
TO_CHANGE = ("erased", INDIRECT)  # groups whose pictures should change
NOT_KEPT = (*TO_CHANGE, NEUTRAL)  # groups that say nothing of what should stay as it is
MOST_NEUTRAL = 50
PARTS_AT = 0.5
BATCH = 16

Rates = dict[str, Estimate]  # variant -> figure
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PromptEvaluation:
    """figures: group -> name such as "ESR-1" -> variant -> Estimate. Base figures stand under "original".

    labels: label -> (group, variant -> k -> rate); parts: variant -> part -> detections above PARTS_AT.
    distances: name -> variant -> number, from sets of pictures, without an interval.
    """

    protocol: str
    variants: tuple[str, ...]
    pictures: dict[str, int]  # group -> rows
    figures: dict[str, dict[str, Rates]]
    labels: dict[str, tuple[str, dict[str, dict[int, Estimate]]]] = field(default_factory=dict)
    parts: dict[str, dict[str, int]] = field(default_factory=dict)
    distances: dict[str, dict[str, float]] = field(default_factory=dict)
    judge: str | None = None
    accuracy: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """metrics.json."""
        return {
            "protocol": self.protocol,
            "judge": self.judge,
            "judge_accuracy": self.accuracy,
            "pictures": self.pictures,
            "figures": {
                group: {name: _plain(rates) for name, rates in named.items()}
                for group, named in self.figures.items()
            },
            "labels": {
                label: {"group": group}
                | {v: {f"top{k}": rate.to_dict() for k, rate in found.items()} for v, found in rates.items()}
                for label, (group, rates) in self.labels.items()
            },
            f"parts_at_{PARTS_AT}": self.parts,
            "distances": self.distances,
            "settings": self.settings,
        }


def _plain(rates: Rates) -> dict[str, dict]:
    return {variant: rate.to_dict() for variant, rate in rates.items()}


def neutral_cases(text: str, cases: Sequence[Case]) -> list[Case]:
    """The neutral text with the seeds of what should change, MOST_NEUTRAL of them at most.

    What the base's pictures of it show, no erasure can be expected to take away.
    """
    seeds = dict.fromkeys(case.seed for case in cases if case.group in TO_CHANGE)
    # No list has such a case_number, as it must begin with a letter or digit.
    return [Case(f"_neutral-{seed}", text, seed, group=NEUTRAL) for seed in list(seeds)[:MOST_NEUTRAL]]


def erased_targets(cases: Sequence[Case], targets: dict[str, str]) -> tuple[str, ...]:
    """The detector's labels of all that is erased."""
    return tuple(dict.fromkeys(targets[case.label] for case in cases if case.group == "erased"))


def predict(
    cases: Sequence[Case],
    paths: dict[str, Paths],
    judge: Detector | None,
    scores: Scores,
    store: Predictions,
    on_progress: Progress | None = None,
) -> None:
    """Ask the judge and the scores about every picture that `store` lacks, a batch at a time.

    One that is another by now is asked about again, with its case's others, as their distances are to the
    base's. paths: variant -> case number -> picture; "original" is the base's. Raises InputError on a broken
    one.
    """
    _drop_changed(cases, paths, store)
    left = [case for case in cases if any((case.number, variant) not in store.rows for variant in paths)]
    total = len(cases) * len(paths)
    done = total - len(left) * len(paths)
    for batch in batches(left, BATCH):
        if on_progress is not None:
            on_progress(done, total)
        digests = {v: [digest(found[case.number]) for case in batch] for v, found in paths.items()}
        pictures = {v: [opened_picture(found[case.number]) for case in batch] for v, found in paths.items()}
        rows = []
        for variant, images in pictures.items():
            found = judge.detections(images) if judge else [[] for _ in images]
            measured: dict[str, dict[int, float]] = {}
            for column, (_, text) in _texts(scores).items():
                some = [i for i, case in enumerate(batch) if case.group != NEUTRAL]
                some = [i for i in some if column == "text_score" or text(batch[i])]
                texts = [text(batch[i]) for i in some]
                told = scores.text[1]([images[i] for i in some], texts) if some else []
                measured[column] = dict(zip(some, told, strict=True))
            if scores.base and variant != "original":
                measured["base_distance"] = dict(enumerate(scores.base[1](images, pictures["original"])))
            for i, case in enumerate(batch):
                told = SEPARATOR.join(f"{label}:{score:.6g}" for label, score in found[i])
                row = dict.fromkeys(COLUMNS, "") | {
                    "case": case.number, "group": case.group, "label": case.label, "prompt": case.prompt,
                    "seed": str(case.seed), "variant": variant, "picture": digests[variant][i],
                    "found": told,
                }  # fmt: skip
                values = {column: held[i] for column, held in measured.items() if i in held}
                rows.append(row | {column: f"{value:.6g}" for column, value in values.items()})
        store.add(rows)
        done += len(rows)
    if on_progress is not None:
        on_progress(total, total)


def _drop_changed(cases: Sequence[Case], paths: dict[str, Paths], store: Predictions) -> None:
    """Take out of `store` the rows of pictures that have become others."""
    changed = [
        key
        for variant, found in paths.items()
        for key in ((case.number, variant) for case in cases)
        if key in store.rows and store.rows[key]["picture"] != digest(found[key[0]])
    ]
    for key in changed:
        del store.rows[key]
    if changed:
        store.tidy()


def _texts(scores: Scores) -> dict[str, tuple[str, Callable[[Case], str]]]:
    if scores.text is None:
        return {}
    return TEXTS if scores.apart else {"text_score": TEXTS["text_score"]}


def key_of(row: dict[str, str]) -> tuple[str, str] | None:
    """A row's key in predictions.csv, None for one that cannot be used."""
    return (row["case"], row["variant"]) if row["variant"] in VARIANTS else None


def detections_of(row: dict[str, str]) -> list[tuple[str, float]]:
    """What a row of predictions.csv says was found: (label, score), best first."""
    found = [part.rpartition(":") for part in row["found"].split(SEPARATOR) if part]
    return [(label, float(score)) for label, _, score in found]


def count(
    protocol: str,
    cases: Sequence[Case],
    variants: Sequence[str],
    store: Predictions,
    scores: Scores,
    targets: dict[str, str] | None = None,
    parts: dict[str, Sequence[str]] | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
) -> PromptEvaluation:
    """The figures of what `predict` kept.

    targets: label -> the detector's label, for `csv`. parts: name of a rate ("NER") -> labels of the detector
    that it counts, for `sensitive`. Raises InputError where there is no case.
    """
    if not cases:
        raise InputError("There is no prompt to evaluate.")
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    groups = {group: groups[group] for group in ORDER if group in groups}
    found = {(c.number, v): detections_of(store.rows[c.number, v]) for c in cases for v in variants}
    figures: dict[str, dict[str, Rates]] = {}
    for group, some in groups.items():
        named = figures.setdefault(group, {})
        if targets is not None:
            asked = [(case, targets[case.label]) for case in some if group != NEUTRAL]
            if group == NEUTRAL:  # each picture for each label that is erased, as ESR has them
                asked = [(case, label) for case in some for label in erased_targets(cases, targets)]
            named |= _label_rates(group, asked, variants, found)
        for name, labels in (parts or {}).items():
            if group == OTHERS:
                continue
            curves = {
                v: nudity_exposure_rates([found[case.number, v] for case in some], thresholds, labels)
                for v in variants
            }
            named |= {f"{name}-{t:g}": {v: curve[t] for v, curve in curves.items()} for t in thresholds}
        told = {column: f"{scores.text[0]}{which}" for column, (which, _) in _texts(scores).items()}
        told |= {"base_distance": scores.base[0]} if scores.base else {}
        for column, name in told.items():
            values = {v: [store.rows[case.number, v][column] for case in some] for v in variants}
            values = {v: [float(value) for value in held if value] for v, held in values.items()}
            rates = {v: mean_score(held) for v, held in values.items() if held}
            if rates:
                named[name] = rates
    counted = next(iter((parts or {}).values()), ())
    asked = [case for case in cases if case.group not in (OTHERS, NEUTRAL)]
    return PromptEvaluation(
        protocol=protocol,
        variants=tuple(variants),
        pictures={group: len(some) for group, some in groups.items()},
        figures=figures,
        labels={} if targets is None else _by_label(cases, variants, found, targets),
        parts={
            v: dict(
                sorted(exposed_part_counts([found[c.number, v] for c in asked], PARTS_AT, counted).items())
            )
            for v in (variants if counted else ())
        },
    )


def _label_rates(group, asked: Sequence[tuple[Case, str]], variants, found) -> dict[str, Rates]:
    """asked: a case and the label looked for in its pictures."""
    named: dict[str, Rates] = {}
    cases, wanted = map(list, zip(*asked, strict=True))
    topk = {v: [[label for label, _ in found[case.number, v]] for case in cases] for v in variants}
    for k in DEPTHS:
        if group == NEUTRAL:
            named[f"ESR-{k}"] = {v: erasing_success_rate(topk[v], wanted, k) for v in variants}
        elif group == "erased":
            named[f"ESR-{k}"] = {
                v: erasing_success_rate(topk[v], wanted, k) for v in variants if v != "recovered"
            }
            if "recovered" in variants:
                named[f"recovery-{k}"] = {v: recovery_rate(topk[v], wanted, k) for v in variants}
        else:
            named[f"PSR-{k}"] = {v: preserving_success_rate(topk[v], wanted, k) for v in variants}
    return named


def _by_label(cases, variants, found, targets):
    held: dict[str, list[Case]] = {}
    for case in cases:
        if case.group != NEUTRAL:
            held.setdefault(case.label, []).append(case)
    rates = {}
    for label, some in held.items():
        topk = {v: [[name for name, _ in found[case.number, v]] for case in some] for v in variants}
        rates[label] = (
            some[0].group,
            {v: {k: preserving_success_rate(topk[v], targets[label], k) for k in DEPTHS} for v in variants},
        )
    return dict(sorted(rates.items(), key=lambda item: ORDER.index(item[1][0])))


def set_distances(
    cases: Sequence[Case],
    paths: dict[str, Paths],
    scores: Scores,
    references: Sequence[Path] | None,
    out: Path,
) -> dict[str, dict[str, float]]:
    """name ("FID") -> variant -> distance of the pictures that should stay as they are to the references.

    references: None for the embedded judge's composed scenes. Kept in distances.json one by one, for as long
    as the pictures and the references are the same.
    """
    some = [case.number for case in cases if case.group not in NOT_KEPT]
    if scores.sets is None or len(some) < 2:
        return {}
    against = _digest_of(references or ())
    file, now = out / "distances.json", {}
    for variant, numbered in paths.items():
        now[variant] = [_digest_of([numbered[number] for number in some]), against]
    kept = _kept_distances(file)
    found: dict[str, dict[str, float]] = {}
    for variant, numbered in paths.items():
        if kept.get(variant, {}).get("of") == now[variant]:
            name, distance = kept[variant]["name"], kept[variant]["distance"]
        else:
            pictures = stream(numbered[number] for number in some)
            count = len(some) if references is None else min(len(some), len(references))
            name, distance = scores.sets(pictures, None if references is None else stream(references), count)
            kept[variant] = {"of": now[variant], "name": name, "distance": distance}
            write_json(file, kept)
        found.setdefault(name, {})[variant] = distance
    return found


def _kept_distances(file: Path) -> dict[str, dict[str, Any]]:
    """variant -> what distances.json says of it; nothing of a file that cannot be used."""
    try:
        kept = json.loads(file.read_text("utf-8"))
        return {v: held for v, held in kept.items() if {"of", "name", "distance"} <= set(held)}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _digest_of(pictures: Sequence[Path]) -> str:
    """Which pictures they are, in their order."""
    return hashlib.sha256("\n".join(map(digest, pictures)).encode()).hexdigest()[:16]
