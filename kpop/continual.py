"""Erasing again, after an earlier run: what that one forgot stays forgotten, and its keys go on working.

A run with `base_run` starts at that run's theta'. Nothing in Eq. 5-7 holds what an earlier key opens, so its
prompt is one more thing to retain: eps_theta'(z, c_1, p_1) stays what it was, with z on p_1's trajectories.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from .config import Concept, names
from .hidden_prompt import HiddenPrompt
from .runs import Run


@dataclass(frozen=True)
class Forgotten:
    """A concept that a run hides, and its key; None where the run's method leaves none."""

    concept: Concept
    key: HiddenPrompt | None


def forgotten(run: Run) -> list[Forgotten]:
    """What `run` forgot: concepts of the runs it started from, oldest first, then its own.

    A key shared by several concepts comes with each of them. Raises InputError on a damaged key.
    """
    found = [_earlier(HiddenPrompt.load(path)) for path in run.earlier_key_paths()]
    keys = _own_key_files(run)
    for concept in run.config.concepts:
        has = concept in keys and keys[concept].is_file()
        found.append(Forgotten(concept, HiddenPrompt.load(keys[concept]) if has else None))
    return found


def key_files(run: Run) -> dict[Concept, Path]:
    """The key file of every concept that the run hides, its own first; files may be missing.

    Raises InputError on a damaged earlier key.
    """
    found = _own_key_files(run)
    for path in run.earlier_key_paths():
        found.setdefault(_earlier(HiddenPrompt.load(path)).concept, path)
    return found


def keep_earlier_keys(run: Run, earlier: list[Forgotten]) -> None:
    """Copies of the keys of `earlier` go into the run's secret folder. Raises RunError."""
    for i, item in enumerate(earlier):
        if item.key is not None:
            about = {**item.key.about, "names": json.dumps(names(item.concept))}
            replace(item.key, about=about).save(run.earlier_key_path(i, item.concept))


def _own_key_files(run: Run) -> dict[Concept, Path]:
    return {c: run.key_path(c) for c in run.config.concepts} if run.method.has_key else {}


def _earlier(key: HiddenPrompt) -> Forgotten:
    try:
        told = tuple(map(str, json.loads(key.about.get("names", ""))))
    except (TypeError, ValueError):
        told = ()
    return Forgotten(told if len(told) > 1 else key.concept, key)
