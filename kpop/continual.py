"""Erasing again, after an earlier run: what that one forgot stays forgotten, and its keys go on working.

A run with `base_run` starts at that run's theta'. Nothing in Eq. 5-7 holds what an earlier key opens, so its
prompt is one more thing to retain: eps_theta'(z, c_1, p_1) stays what it was, with z on p_1's trajectories.
So are the siblings that it retained, which its concept's neighbourhood still needs.
Methods that train by steps do so with retain_weight; UCE, in closed form, holds neither.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .config import Concept, EraseConfig, names
from .errors import KpopError, RunError
from .hidden_prompt import HiddenPrompt
from .key_sealing import check_open, has_key_file, load_key
from .models import file_hash
from .runs import Run, open_run
from .weights import WeightDelta


@dataclass(frozen=True)
class Forgotten:
    """A concept that a run hides, and its key; None where the run's method leaves none.

    siblings: what that run retained, where it is still there.
    """

    concept: Concept
    key: HiddenPrompt | None
    siblings: tuple[Concept, ...] = ()


def start_of(cfg: EraseConfig, run: Run, model_hash: str) -> tuple[WeightDelta | None, list[Forgotten], str]:
    """theta where cfg starts from another run's theta', what that run forgot, and what names theta.

    run: the one that starts; the other is looked up beside it. Raises InputError, RunError.
    """
    if cfg.base_run is None:
        return None, [], model_hash
    base = open_run(cfg.base_run, run.path.parent)
    if not base.weights_path.is_file():
        then = "Wait until it is done" if base.method.has_weights else f"{base.method.title} trains none"
        raise RunError(f"Run {base.id} has no weights to start from. {then}.")
    delta = WeightDelta.load(base.weights_path)
    if delta.model_hash != model_hash:
        raise RunError(f"Run {base.id} was trained on another base model than {cfg.model}. Choose that one.")
    return delta, earlier_of(cfg, run.path.parent), f"{model_hash}+{file_hash(base.weights_path)}"


def earlier_of(cfg: EraseConfig, runs_dir: str | Path | None = None) -> list[Forgotten]:
    """What the run that cfg starts from forgot, with siblings; [] where it starts from none.

    runs_dir: where that run is looked up by its id. Raises InputError, RunError.
    """
    if cfg.base_run is None:
        return []
    base = open_run(cfg.base_run, runs_dir)
    kept = _siblings(base)
    return [replace(item, siblings=kept.get(item.concept, ())) for item in forgotten(base)]


def known_earlier(cfg: EraseConfig, runs_dir: str | Path | None = None) -> list[Forgotten]:
    """earlier_of, for an estimate: [] where that run is gone or sealed. Never raises."""
    try:
        return earlier_of(cfg, runs_dir)
    except KpopError:
        return []


def still_hidden(cfg: EraseConfig, earlier: Sequence[Forgotten]) -> list[Forgotten]:
    """Those of `earlier` that cfg does not erase again."""
    erased = _erased(cfg)
    return [item for item in earlier if not erased.intersection(map(str.lower, names(item.concept)))]


def kept_words(cfg: EraseConfig, earlier: Sequence[Forgotten]) -> tuple[str, ...]:
    """What cfg retains because of `earlier`: the words forgotten then, and what was retained beside them."""
    erased = _erased(cfg)
    told = [concept for item in still_hidden(cfg, earlier) for concept in (item.concept, *item.siblings)]
    words = [word for concept in told for word in names(concept) if word.lower() not in erased]
    return tuple(dict.fromkeys(words))


def _erased(cfg: EraseConfig) -> set[str]:
    return {word.lower() for concept in cfg.concepts for word in names(concept)}


def forgotten(run: Run) -> list[Forgotten]:
    """What `run` forgot: concepts of the runs it started from, oldest first, then its own.

    A key shared by several concepts comes with each of them. Raises InputError on a damaged key, RunError
    where the keys are sealed.
    """
    check_open(run)
    found = [_earlier(load_key(run, path)) for path in run.earlier_key_paths()]
    keys = _own_key_files(run)
    for concept in run.config.concepts:
        has = concept in keys and has_key_file(run, keys[concept])
        found.append(Forgotten(concept, load_key(run, keys[concept]) if has else None))
    return found


def key_files(run: Run) -> dict[Concept, Path]:
    """The key file of every concept that the run hides, its own first; files may be missing.

    Raises InputError on a damaged earlier key.
    """
    found = _own_key_files(run)
    for path in run.earlier_key_paths():
        found.setdefault(_earlier(load_key(run, path)).concept, path)
    return found


def judged_config(run: Run) -> EraseConfig:
    """The run's settings for who judges its pictures: what earlier runs forgot is erased, not retained."""
    cfg, *before = [one.config for one in _with_earlier(run)]
    concepts = dict.fromkeys([*cfg.concepts, *(concept for one in before for concept in one.concepts)])
    if len(concepts) == len(cfg.concepts):
        return cfg
    gone = {word.lower() for concept in concepts for word in names(concept)}
    kept = [one for one in cfg.retain or () if not gone.intersection(map(str.lower, names(one)))]
    return replace(cfg, concepts=tuple(concepts), retain=tuple(kept))


def keep_earlier_keys(run: Run, earlier: list[Forgotten]) -> None:
    """Copies of the keys of `earlier` go into the run's secret folder. Raises RunError."""
    for i, item in enumerate(earlier):
        if item.key is not None:
            about = {**item.key.about, "names": json.dumps(names(item.concept))}
            replace(item.key, about=about).save(run.earlier_key_path(i, item.concept))


def _siblings(run: Run) -> dict[Concept, tuple[Concept, ...]]:
    """What each concept's run retained, as far back as the runs are there."""
    found: dict[Concept, tuple[Concept, ...]] = {}
    for one in _with_earlier(run):
        found |= dict.fromkeys(one.config.concepts, one.config.retain or ()) | found
    return found


def _with_earlier(run: Run) -> Iterator[Run]:
    """The run, the one it started from, and so on, as far back as they are there."""
    while True:
        yield run
        try:
            if run.config.base_run is None:
                return
            run = open_run(run.config.base_run, run.path.parent)
        except KpopError:
            return


def _own_key_files(run: Run) -> dict[Concept, Path]:
    return {c: run.key_path(c) for c in run.config.concepts} if run.method.has_key else {}


def _earlier(key: HiddenPrompt) -> Forgotten:
    try:
        told = tuple(map(str, json.loads(key.about.get("names", ""))))
    except (TypeError, ValueError):
        told = ()
    return Forgotten(told if len(told) > 1 else key.concept, key)
