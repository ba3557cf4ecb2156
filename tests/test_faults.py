"""The fault suite in short: the code of `python -m faults` on a few occasions, and harm that it must see."""

import json
import random
import shutil
from pathlib import Path

import pytest

import faults.kills as kill_module
from faults import damage as damages
from faults import disk as disks
from faults.damage import damage
from faults.disk import disk
from faults.figures import HEAD, Figures, page, table
from faults.fuzz import fuzz
from faults.fuzz_http import _ended, _judged, fuzz_http
from faults.kills import kills
from faults.world import SETTINGS, WORDS, World, learned, uninterrupted
from kpop import checkpoint
from kpop.ui.boundary import UNEXPECTED


@pytest.fixture
def world(tiny_folder, tmp_path):
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    (model / "words.json").write_text(json.dumps({word: 1 for word in WORDS}))
    return World(tmp_path, model, random.Random(7), SETTINGS | {"steps": 12})


def test_a_damaged_checkpoint_is_told_or_made_good(world):
    cut, turned = damage(world, 4)
    assert (cut.struck, turned.struck) == (4, 4)
    assert cut.holds and turned.holds, table([cut, turned])
    assert cut.resumed + turned.resumed >= 4


def test_the_suite_sees_a_checkpoint_that_is_not_checked(world, monkeypatch):
    monkeypatch.setattr(checkpoint, "_is_whole", lambda run, state: True)
    monkeypatch.setattr(damages, "_files", lambda run: [checkpoint._theta_path(run, damages.HALT)])
    _, turned = damage(world, 3)
    assert turned.lost >= 1 and not turned.holds  # some bits make the file unreadable, and that is seen


def test_malformed_settings_lists_and_pictures(world):
    rows = fuzz(world, 60)
    assert [row.struck for row in rows] == [60, 60, 60]
    assert all(row.holds for row in rows), table(rows)


def test_malformed_requests(world):
    (figures,) = fuzz_http(world, 25)
    assert figures.struck == 25 and figures.holds, table([figures])


def test_refusals_without_a_sentence_are_counted():
    figures = Figures("a")
    assert _ended('event: error\ndata: {"error": "There is no run."}\n\n', (), figures) == "refused in words"
    assert _judged(404, (), figures) == 404 and figures.bare == 0
    for told in ("", "event: error\ndata: null\n\n", 'event: heartbeat\ndata: "still here"\n\n',
                 f'event: error\ndata: {{"error": "{UNEXPECTED}"}}\n\n'):  # fmt: skip
        assert _ended(told, (), figures) == "refused without words"
    assert _judged(502, (), figures) == 502 and figures.bare == 5


def test_a_killed_worker(world):
    (worker,) = kills(world, "worker", 1, queue=1)
    assert (worker.struck, worker.resumed) == (1, 1) and worker.holds, table([worker])


def test_a_kill_of_nobody_does_not_count(world):
    run, figures = uninterrupted(world), Figures("a", asked=1, times=1)
    assert not kill_module._kill(world, run, "worker", figures)
    assert figures.struck == 0 and not figures.holds


def test_a_disk_that_cannot_be_made_is_not_run(world, monkeypatch):
    def refuse(*_):
        raise OSError("no right to mount")

    monkeypatch.setattr(disks, "_mount", refuse)
    rows = disk(world, 3)
    assert [row.not_run for row in rows] == ["a tmpfs cannot be mounted here"] * 2
    assert not any(row.holds for row in rows)


def test_what_was_not_run_is_said_so():
    rows = [
        Figures("a", asked=3, times=4, struck=3, resumed=2, equal=2),
        Figures("b", asked=3, not_run="no such device"),
    ]
    assert "| b | 3 | 0 | not run: no such device |" in table(rows)
    assert [row.holds for row in rows] == [True, False]
    assert not Figures("c", asked=1, struck=1, resumed=1).holds
    assert not Figures("d", asked=50, times=50, struck=49).holds  # one killed nobody
    told = page(rows, "python -m faults", 5, 1.0)
    assert "| a | 3 | 3 | 0 | 0 | 0 | 0 | 0 | 2 of 2 |" in told and "seed 5" in told


def test_a_traceback_in_an_answer_is_counted():
    figures = Figures("a")
    figures.shown('Traceback (most recent call last):\n  File "/app/x.py", line 3')
    figures.shown("There is no run 'traceback'.")
    assert figures.tracebacks == 1 and not figures.holds


def test_a_run_that_begins_again_is_lost_though_it_ends_the_same(world):
    run = uninterrupted(world)
    world.note(run)
    kept = Figures("kept")
    world.finish(run, kept, learned(run))
    assert (kept.lost, kept.resumed, kept.equal) == (0, 1, 1)
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    (run.path / "metrics.jsonl").write_text(
        "".join(json.dumps(row | {"seconds": 9.5}) + "\n" for row in rows)
    )
    again = Figures("again")
    world.finish(run, again, learned(run))
    assert (again.lost, again.equal) == (1, 1) and not again.holds


def test_the_page_of_the_last_whole_run_is_of_this_form():
    lines = Path("docs/reliability.md").read_text("utf-8").splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("| fault |"))
    assert lines[head] == "| " + " | ".join(HEAD) + " |"
    rows = [line.split(" | ") for line in lines[head + 2 : lines.index("", head)]]
    assert len(rows) == 15 and [row[2] for row in rows[:3]] == ["50", "50", "50"]
    assert all(row[1] == row[2] for row in rows)  # each struck as often as asked
