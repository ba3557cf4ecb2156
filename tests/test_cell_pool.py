"""Cells made side by side: every one is made once, one that fails or dies costs nothing but itself."""

import os
import signal
import time
from functools import partial

import pytest

from kpop import cli
from kpop.errors import RunError
from kpop.evaluation.cell_pool import make_all


def writer(folder):
    """What a worker calls once; it leaves a file a cell, and fails or dies where the cell says so."""

    def make_one(cell):
        if cell == "fails":
            raise RunError("This one cannot be made.")
        if cell == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if cell == "slow":
            time.sleep(60)
        with open(folder / cell, "x") as file:
            file.write(str(os.getpid()))

    return make_one


def test_every_cell_is_made_once_by_workers_that_stay(tmp_path):
    told = []
    cells = [f"cell{i}" for i in range(8)]
    assert make_all(cells, partial(writer, tmp_path), 2, tell=told.append) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == cells
    assert len({path.read_text() for path in tmp_path.iterdir()}) <= 2
    begun = [one.number for one in told if one.error is None]
    assert sorted(begun) == list(range(8)) == sorted(one.number for one in told if one.error == "")


def test_one_that_fails_and_one_that_dies_cost_nothing_but_themselves(tmp_path):
    failed = make_all(["a", "fails", "dies", "b", "c"], partial(writer, tmp_path), 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
    assert sorted(failed) == [
        "The process that made cell 3 of 5 ended with status -9.",
        "This one cannot be made.",
    ]


def test_the_limit_ends_what_is_at_work(tmp_path):
    began = time.monotonic()
    assert make_all(["slow", "a", "b"], partial(writer, tmp_path), 2, minutes=0.2) == []
    assert time.monotonic() - began < 25
    assert {"a", "b"} == {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    "flags",
    [
        ("--jobs", "0"),
        ("--minutes", "1"),
        ("--jobs", "2", "--runner", "ray"),
        ("--jobs", "2", "--minutes", "0"),
    ],
)
def test_flags_that_make_no_sense_together_are_one_line(flags, capsys):
    assert cli.main(["reproduce", "table2", *flags]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
