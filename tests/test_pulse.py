"""What an open page is told to ask for again."""

import shutil
from dataclasses import fields

import pytest

from kpop.runs import EXAMPLE, Run
from kpop.ui.pulse import Pulse, marks
from kpop.ui.studio import Studio

NAMES = [each.name for each in fields(Pulse)]


@pytest.fixture
def run(tmp_path):
    copy = Run(shutil.copytree(EXAMPLE, tmp_path / "20260101-120000-church-ab12"))
    copy.update_status(owner="local", state="running", step=10, steps=340)
    return copy


def test_only_the_parts_that_changed_are_named(run, tmp_path):
    studio, told = Studio(tmp_path), []

    def changed() -> set[str]:
        told.append(marks(studio, run.id))
        return {name for name, old, new in zip(NAMES, *told[-2:], strict=True) if old != new}

    told.append(marks(studio, run.id))
    assert changed() == set()
    run.update_status(step=11)
    assert changed() == {"progress"}
    run.update_status(step=40)
    assert changed() == {"progress", "names", "table"}
    first = next(iter((run.path / "samples").iterdir()))
    shutil.copytree(first, run.path / "samples" / "step_00040")
    assert changed() == {"samples", "table"}
    (run.path / "samples" / "step_00040" / "more.png").write_bytes(b"late")
    assert changed() == {"samples"}
    run.update_status(state="done")
    assert changed() == {"names", "progress", "controls", "table", "evaluations"}
    shutil.rmtree(run.path)
    assert changed() == set(NAMES)


def test_a_server_started_anew_names_all_parts(run, tmp_path):
    before, after = marks(Studio(tmp_path), run.id), marks(Studio(tmp_path), run.id)
    assert all(old != new for old, new in zip(before, after, strict=True))
