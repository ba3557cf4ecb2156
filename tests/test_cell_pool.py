"""Cells made side by side: every one is made once, one that fails or dies costs nothing but itself."""

import os
import signal
import threading
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
        if cell == "breaks":
            raise ValueError("Not foreseen.")
        if cell == "leaves":
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
        if cell == "naps":
            time.sleep(3)
        if cell == "slow":
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                (folder / "kept").touch()
                raise
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


def test_several_that_end_together_may_find_one_cell_left(tmp_path):
    def tell(told):
        while told.error is None and told.number == 1 and len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.1)  # until both are made, and then until both have said so
        time.sleep(0.5 if told.error is None and told.number == 1 else 0)

    assert make_all(["a", "b", "c"], partial(writer, tmp_path), 2, tell=tell) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_one_that_fails_and_one_that_dies_cost_nothing_but_themselves(tmp_path):
    failed = make_all(["a", "fails", "dies", "b", "c"], partial(writer, tmp_path), 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
    assert sorted(failed) == [
        "The process that made cell 3 of 5 ended with status -9.",
        "This one cannot be made.",
    ]


def test_what_nobody_foresaw_costs_its_own_cell(tmp_path):
    assert make_all(["breaks", "a"], partial(writer, tmp_path), 1) == ["ValueError: Not foreseen."]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_worker_may_die_while_it_has_nothing_to_do(tmp_path):
    assert make_all(["leaves", "naps"], partial(writer, tmp_path), 2) == []


def test_the_limit_lets_what_is_at_work_save_itself(tmp_path):
    began = time.monotonic()
    assert make_all(["slow", "a", "b"], partial(writer, tmp_path), 2, minutes=0.1) == []
    assert time.monotonic() - began < 20
    assert {"a", "b", "kept"} == {path.name for path in tmp_path.iterdir()}


def test_after_the_limit_nothing_is_begun(tmp_path):
    told = []
    assert make_all(["a"], partial(writer, tmp_path), 2, minutes=0.0, tell=told.append) == [] == told


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
