"""The run folder: ids, atomic status, damaged files, metrics, and disks that refuse."""

import errno
import json
import os
import re
import stat
import threading
from dataclasses import replace

import pytest

from kpop import runs
from kpop.config import EraseConfig
from kpop.errors import InputError, RunError
from kpop.runs import create_run, list_runs, open_run


@pytest.fixture
def cfg():
    return EraseConfig(
        model="emoji",
        concepts=("church",),
        retain=("castle",),
        steps=20,
        batch_size=1,
        neutral="",
        templates=("{}",),
    )


@pytest.fixture(autouse=True)
def plain(monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "EXAMPLE", tmp_path / "nowhere" / "example-run")
    monkeypatch.setattr(EraseConfig, "resolved", lambda self: self)  # what a model needs is not tested here


def test_a_new_run_has_a_server_made_id_and_a_private_secret_folder(cfg, tmp_path):
    run = create_run(cfg, tmp_path / "new" / "runs", owner="ann")
    assert re.fullmatch(r"\d{8}-\d{6}-church-[0-9a-f]{4}", run.id)
    assert stat.S_IMODE(os.stat(run.secret_dir).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(run.path / "config.json").st_mode) == 0o600  # its seed makes the key again
    assert run.config == replace(cfg, seed=run.config.seed)
    status = run.status
    assert (status.state, status.owner, status.step, status.steps) == ("queued", "ann", 0, 20)
    assert not run.has_checkpoint and run.samples() == [] and run.metrics() == [] and run.log_tail() == ""


def test_a_run_that_names_no_seed_gets_one_that_nobody_else_has(cfg, tmp_path):
    seeds = [create_run(cfg, tmp_path).config.seed for _ in range(3)]
    assert len(set(seeds)) == 3 and min(seeds) >= 2**20  # once in 10**9 times a smaller one is drawn
    assert create_run(replace(cfg, seed=7), tmp_path).config.seed == 7


@pytest.mark.parametrize(
    "word, part",
    [
        ("../../etc/passwd", "etc-passwd"),
        ("Häuser & Co", "hauser-co"),
        ("教会", "concept"),
        ("x" * 60, "x" * 24),
    ],
)
def test_an_id_never_holds_what_a_user_typed_as_a_path(tmp_path, word, part):
    run = create_run(EraseConfig(concepts=(word,)), tmp_path)
    assert run.path.parent == tmp_path.resolve()
    assert run.id[16:-5] == part


@pytest.mark.parametrize("bad", ["nope", "UPPER", "a b", "x" * 200, "", "a\x00b"])
def test_ids_that_are_none_are_refused_in_words(tmp_path, bad):
    with pytest.raises(RunError, match="runs list"):
        open_run(bad, tmp_path)


@pytest.mark.parametrize("bad", ["../secret", "/etc", "a/../b"])
def test_paths_that_are_no_run_are_refused(tmp_path, bad):
    with pytest.raises(RunError, match="not a run folder"):
        open_run(bad, tmp_path)


def test_open_by_id_and_by_path(cfg, tmp_path):
    run = create_run(cfg, tmp_path)
    assert open_run(run.id, tmp_path) == open_run(run.path) == open_run(str(run.path)) == open_run(run) == run


def test_list_is_newest_first_with_the_example_last(cfg, tmp_path, monkeypatch):
    folder = tmp_path / "runs"
    old, new = create_run(cfg, folder), create_run(cfg, folder)
    old.update_status(made=1000.0)
    example = create_run(cfg, tmp_path / "assets")
    example.path.rename(tmp_path / "assets" / "example-run")
    monkeypatch.setattr(runs, "EXAMPLE", tmp_path / "assets" / "example-run")
    (folder / "my notes").mkdir()
    found = list_runs(folder)
    assert [run.id for run in found] == [new.id, old.id, "example-run"]
    assert [run.is_example for run in found] == [False, False, True]
    assert open_run("example-run", folder).is_example
    assert list_runs(tmp_path / "not there")[0].is_example


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("status.json", "{", "status.json cannot be read"),
        ("status.json", "[]", "status.json cannot be read"),
        ("status.json", '{"state": "dancing"}', "status.json cannot be read"),
        ("status.json", '{"state": "done", "step": "many"}', "status.json cannot be read"),
        ("status.json", '{"state": "done", "steps": null}', "status.json cannot be read"),
        ("status.json", '{"state": "done", "steps": 1%s}' % ("0" * 400), "status.json cannot be read"),
        ("status.json", None, "status.json is missing"),
        ("config.json", "\x00\x01", "config.json cannot be read"),
        ("config.json", '{"concepts": ["church"], "colour": 3}', "Unknown setting 'colour'"),
        ("config.json", '{"concepts": []}', "config.json cannot be read"),
        ("config.json", "[" * 100_000, "config.json cannot be read"),
        ("config.json", None, "config.json is missing"),
    ],
)
def test_damaged_folders_are_listed_as_failed_with_a_sentence(cfg, tmp_path, name, text, words):
    run = create_run(cfg, tmp_path)
    (run.path / name).unlink() if text is None else (run.path / name).write_text(text)
    (found,) = list_runs(tmp_path)
    assert found.status.state == "failed"
    assert words in found.status.error
    assert found.config.concepts == ("church",)


def test_status_changes_keep_other_fields_and_unknown_ones_do_no_harm(cfg, tmp_path):
    run = create_run(cfg, tmp_path)
    data = json.loads((run.path / "status.json").read_text())
    (run.path / "status.json").write_text(json.dumps(data | {"from_the_future": 1}))
    run.update_status(state="running", step=3, eta_s=float("nan"))
    status = run.status
    assert (status.state, status.step, status.steps, status.eta_s) == ("running", 3, 20, None)
    assert status.heartbeat is not None
    with pytest.raises(RunError, match="Unknown state"):
        run.update_status(state="dancing")


def test_of_many_who_take_a_run_one_gets_it(cfg, tmp_path):
    run = create_run(cfg, tmp_path)
    got = []

    def take():
        got.append(run.transition(("queued",), state="starting"))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 7 + [True]


def test_a_wish_to_stop_is_not_overwritten_by_the_trainer(cfg, tmp_path):
    run = create_run(cfg, tmp_path, status="running")
    run.transition(("running",), state="stopping")
    run.update_status(state="running", step=4)
    assert (run.status.state, run.status.step) == ("stopping", 4)


def test_metrics_survive_a_torn_line_and_are_cut_to_the_checkpoint(cfg, tmp_path):
    run = create_run(cfg, tmp_path)
    for step in range(1, 8):
        run.append_metrics({"step": step, "l_erase": 1 / step, "cosines": {"seen": {"": float("nan")}}})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "l_er')
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5, 6, 7]
    assert run.metrics()[1] == {"step": 2, "l_erase": 0.5, "cosines": {"seen": {"": None}}}
    assert [row["step"] for row in run.metrics(max_points=3)] == [1, 4, 7]
    run.truncate_metrics(5)
    run.append_metrics({"step": 6})
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5, 6]


def test_metrics_are_read_on_and_a_file_written_anew_is_read_anew(cfg, tmp_path):
    run = create_run(cfg, tmp_path)
    path = run.path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert run.metrics() == [{"step": 1}, {"step": 2}]
    with open(path, "a") as file:
        file.write('ep": 3}\n{"step": 4}')
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4]
    with open(path, "a") as file:
        file.write('\n{"step": 5}\n')
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5]
    path.write_text('{"step": 7}\n' * 9)
    assert [row["step"] for row in run.metrics()] == [7] * 9
    path.write_text('{"step": 8}\n')
    assert [row["step"] for row in run.metrics()] == [8]
    path.unlink()
    assert run.metrics() == []


def test_a_status_is_read_again_after_it_was_written(cfg, tmp_path):
    run = create_run(cfg, tmp_path)
    for step in range(20):
        run.update_status(step=step)
        assert run.status.step == step
    (run.path / "status.json").write_text("{")
    assert run.status.state == "failed"


def test_samples_and_log(cfg, tmp_path):
    run = create_run(cfg, tmp_path)
    for step in (10, 0):
        folder = run.path / "samples" / f"step_{step:05d}"
        folder.mkdir()
        (folder / "sanitized.png").write_bytes(b"")
        (folder / ".recovered.png").write_bytes(b"")
    (run.path / "samples" / "step_00020").mkdir()
    assert [(step, sorted(found)) for step, found in run.samples()] == [
        (0, ["sanitized"]),
        (10, ["sanitized"]),
    ]
    (run.path / "log.txt").write_bytes(b"first\n10%\r50%\r100%\n\nbad \xff byte\nlast\n")
    assert run.log_tail(3) == "100%\nbad � byte\nlast"
    trace = 'Traceback (most recent call last):\n  File "/app/x.py", line 3, in f\n    g()\nOSError: no\n'
    chained = "\nThe above exception was the direct cause of the following exception:\n\n"
    (run.path / "log.txt").write_text(f"first\n{trace}{chained}{trace}last\n")
    assert run.log_tail(5) == "first\nlast"


def test_a_checkpoint_counts_only_when_it_is_whole(cfg, tmp_path):
    run = create_run(cfg, tmp_path)
    run.checkpoint_dir.mkdir()
    assert not run.has_checkpoint
    (run.checkpoint_dir / "state.json").write_text("{")
    assert not run.has_checkpoint
    (run.checkpoint_dir / "state.json").write_text('{"step": 12}')
    assert run.checkpoint_step() == 12


def test_key_files_are_found_by_any_synonym(tmp_path):
    run = create_run(EraseConfig(concepts=(("church", "chapel"), "dog")), tmp_path)
    assert (
        run.key_path("Chapel")
        == run.key_path(("church", "chapel"))
        == run.secret_dir / "key-00-church.safetensors"
    )
    assert run.key_path("dog") == run.secret_dir / "key-01-dog.safetensors"
    with pytest.raises(InputError, match="It hides: church, dog"):
        run.key_path("../../x")
    with pytest.raises(InputError, match="several keys"):
        run.key_path()


def test_a_folder_that_is_a_file_is_refused_in_words(cfg, tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError, match="Choose another folder"):
        create_run(cfg, tmp_path / "runs")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_refused_in_words(cfg, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="cannot be written"):
        create_run(cfg, tmp_path / "runs")


def test_a_full_disk_says_so_and_loses_nothing(cfg, tmp_path, monkeypatch):
    run = create_run(cfg, tmp_path)
    run.update_status(step=5)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="is full"):
        run.update_status(step=6)
    with pytest.raises(RunError, match="is full"):
        create_run(cfg, tmp_path)
    monkeypatch.undo()
    assert run.status.step == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == [run.id]
    assert not [path for path in run.path.iterdir() if path.name.endswith(".tmp")]


def test_a_deleted_run_is_not_made_again_by_a_late_update(cfg, tmp_path):
    run = create_run(cfg, tmp_path)
    run.path.rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is gone"):
        run.update_status(step=1)
    assert not run.path.exists()
