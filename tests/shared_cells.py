"""Stores of cells whose contents are known."""

from kpop.evaluation.cells import Store
from kpop.evaluation.plan import merged


def filled(folder, target, answer, plan, only=None):
    """A store that holds all a target asks for; answer(spec, ask, seed) -> columns. only: those methods."""
    store = Store(folder / "cells")
    for spec, wanted in merged(target.needs(plan)):
        if only is not None and spec.method not in only:
            continue
        cell = store.load(spec)
        cell.about["judge_accuracy"] = 99.0
        for ask, seeds in wanted:
            for seed in seeds:
                cell.add(ask, seed, answer(spec, ask, seed))
        store.save(cell)
    return store
