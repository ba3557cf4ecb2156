"""Cells of the tiny model made by processes side by side: what one process makes, and nothing lost."""

import os
import signal
import threading
import time
from functools import partial

import pytest
from judges import PixelJudge

from kpop import models
from kpop.config import GenerationConfig
from kpop.evaluation.cell_maker import Maker
from kpop.evaluation.cell_pool import make_all
from kpop.evaluation.cells import Ask, CellSpec, Store
from kpop.runs import list_runs

SAMPLING = GenerationConfig(steps=2, scheduler="ddim", guidance_scale=2.0, batch_size=2)
SEEDS = (1000, 1001)


def maker(model, place):
    """A maker of its own model, as a worker process has it."""
    judge, pipe = PixelJudge(), models.load_pipeline(model, "cpu", "fp32")
    made = Maker(pipe, lambda name: judge, Store(place / "cells"), place / "work")
    made.takes_turns, made.device = False, "cpu"
    return made


def working(model, place):
    """What a worker calls once."""
    made = maker(model, place)
    return lambda cell: made.make(*cell)


def cells_of(model, tiny_config, **changes):
    """The untouched model and two trainings, whose pictures are held against its own."""
    digest, looks = models.model_hash(model), ("distance",)

    def spec(method, config):
        return CellSpec(method, "split", "default", 0, model, digest, "emoji", SAMPLING, config)

    asks = [Ask("a church", "church", "erased", "sanitized", looks=looks)]
    key = [Ask("a church", "church", "erased", "recovered", "church", looks=looks)]
    return [
        (spec("base", None), [(Ask("a church", "church", "erased", "original"), SEEDS)]),
        (spec("KPOP*", tiny_config(**changes).resolved()), [(ask, SEEDS) for ask in asks + key]),
        (spec("ESD*", tiny_config(method="esd", **changes).resolved()), [(ask, SEEDS) for ask in asks]),
    ]


def test_two_workers_make_what_one_makes(tiny_folder, tiny_config, tmp_path):
    cells = cells_of(str(tiny_folder), tiny_config)
    alone = maker(str(tiny_folder), tmp_path / "alone")
    expected = [alone.make(*cell) for cell in cells]
    place = tmp_path / "together"
    assert make_all(cells, partial(working, str(tiny_folder), place), 2) == []
    store = Store(place / "cells")
    for cell, (spec, _) in zip(expected, cells, strict=True):
        assert store.load(spec).groups == cell.groups and cell.groups
    assert not [path for path in place.rglob("*.tmp")]


def test_sigterm_keeps_the_training_that_is_broken_off(tiny_folder, tiny_config, tmp_path):
    cell = cells_of(str(tiny_folder), tiny_config, steps=100_000, checkpoint_every=100_000)[1]
    folder = tmp_path / "work" / cell[0].name

    def steps_done():
        runs = [run for run in list_runs(folder) if not run.is_example] if folder.is_dir() else []
        return max((run.status.step for run in runs), default=0)

    def ask_to_end():
        until = time.monotonic() + 60
        while steps_done() < 1 and time.monotonic() < until:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask_to_end, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        make_all([cell], partial(working, str(tiny_folder), tmp_path), 2)
    (run,) = [run for run in list_runs(folder) if not run.is_example]
    assert run.status.state == "interrupted" and run.checkpoint_step() >= 1
