"""Queue, worker processes that live and die, stopping, resuming, and turns at the device."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest

from kpop import jobs, runs
from kpop.config import EraseConfig
from kpop.errors import RunError
from kpop.run_status import ENDED, started
from kpop.runs import create_run, open_run
from kpop.ui.run_view import run_card
from kpop.ui.studio import Studio

# A worker that trains nothing: it writes status as a trainer does, and stops when asked unless it is deaf.
WORKER = """
import sys, time
from pathlib import Path
from kpop.runs import open_run
run = open_run(Path(sys.argv[1]))
run.claim(runner="local")
print("working", flush=True)
for step in range(1, 2000):
    run.update_status(step=step)
    run.checkpoint_dir.mkdir(exist_ok=True)
    part = run.checkpoint_dir / "state.json.part"  # renamed, as a trainer does: it may be killed at any time
    part.write_text('{"step": %d}' % step)
    part.replace(run.checkpoint_dir / "state.json")
    if run.stop_requested and "deaf" not in run.path.name:
        run.update_status(state="stopped")
        break
    time.sleep(0.02)
"""


# The real worker around a trainer that does what the run's concept says.
REAL_WORKER = """
import sys, time, types
import kpop
training = types.ModuleType("kpop.training")
def train(cfg, runs_dir=None, *, run=None, pipe=None, on_step=None, device="auto", gate=None):
    if cfg.concepts == ("broken",):
        raise ValueError("odd")
    if cfg.concepts == ("loading",):
        time.sleep(60)
    for step in range(1, 4 if cfg.concepts == ("short",) else 3000):
        gate()
        run.update_status(step=step)
        on_step(types.SimpleNamespace(step=step))
        time.sleep(0.02)
        if run.stop_requested and cfg.concepts == ("deaf",):
            time.sleep(60)
        if run.stop_requested:
            return
training.train = train
sys.modules["kpop.training"] = kpop.training = training
from kpop import jobs, worker
jobs.worker_command = lambda run, device: [sys.executable, "-c", "print('next')", str(run.path)]
sys.exit(worker.main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def world(monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "EXAMPLE", tmp_path / "nowhere" / "example-run")
    monkeypatch.setattr(EraseConfig, "resolved", lambda self: self)
    monkeypatch.setattr(
        jobs, "worker_command", lambda run, device: [sys.executable, "-c", WORKER, str(run.path)]
    )
    yield
    for run in runs.list_runs(tmp_path):
        status = run._read_status()[0]
        if status.pid and status.pid != os.getpid() and status.runner == "local" and jobs.alive(status):
            os.kill(status.pid, signal.SIGKILL)


@pytest.fixture
def cfg():
    return EraseConfig(concepts=("church",), steps=2000)


def until(condition, seconds=20.0):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited in vain"
        time.sleep(0.05)


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_one_run_a_device_oldest_first_and_the_next_when_it_is_free(cfg, tmp_path):
    first, second, third = (jobs.submit(cfg, tmp_path) for _ in range(3))
    assert jobs.queue_position(first) is None
    assert (jobs.queue_position(second), jobs.queue_position(third)) == (1, 2)
    until(lambda: first.status.state == "running" and first.status.step > 2)
    status = first.status
    assert status.pid != os.getpid() and os.getpgid(status.pid) == status.pid  # its own session
    assert jobs.start_next(tmp_path) == []

    jobs.stop(first)
    until(lambda: first.status.state == "stopped")
    until(lambda: not jobs.alive(first.status))
    assert jobs.start_next(tmp_path) == [second]
    jobs.stop(third)
    assert third.status.state == "stopped"
    jobs.stop(second)
    until(lambda: second.status.state == "stopped")
    assert "working" in first.log_tail()


def test_two_servers_start_a_run_once(cfg, tmp_path):
    run = create_run(cfg, tmp_path)
    started = []
    threads = [threading.Thread(target=lambda: started.extend(jobs.start_next(tmp_path))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert started == [run]
    jobs.stop(run)
    until(lambda: run.status.state == "stopped")


def test_another_device_needs_not_wait(cfg, tmp_path):
    create_run(cfg, tmp_path, status="running", device="cuda:0")
    waits = create_run(cfg, tmp_path, device="cuda")
    other = jobs.submit(cfg, tmp_path, device="cuda:1")
    assert (waits.status.state, other.status.state == "queued") == ("queued", False)
    jobs.stop(other)
    until(lambda: other.status.state == "stopped")


def test_a_killed_worker_is_failed_and_can_be_resumed(cfg, tmp_path):
    run = jobs.submit(cfg, tmp_path)
    until(lambda: run.status.step > 3)
    os.kill(run.status.pid, signal.SIGKILL)
    until(lambda: not jobs.alive(run.status))
    assert jobs.reconcile(tmp_path) == [run]
    status = run.status
    assert status.state == "failed"
    step = run.checkpoint_step()
    assert "killed or ran out of memory" in status.error and "working" not in status.error  # the log's words
    assert status.error.endswith(f"What it learned up to step {step} is kept.")
    for row in range(1, step + 5):
        run.append_metrics({"step": row})

    assert jobs.resume(run) == f"It goes on from step {step}."
    assert run.metrics()[-1] == {"step": step}
    until(lambda: run.status.state == "running")
    with pytest.raises(RunError, match="nothing to resume"):
        jobs.resume(run)
    jobs.stop(run)
    until(lambda: run.status.state == "stopped")
    assert run.status.error is None


def test_resume_without_checkpoint_says_that_it_starts_again(cfg, tmp_path):
    create_run(cfg, tmp_path, status="running")  # holds the device
    run = create_run(cfg, tmp_path)
    run.append_metrics({"step": 3})
    run.request_stop()
    run.update_status(state="failed", step=3, error="boom")
    assert jobs.resume(run) == "It has no checkpoint: it starts again from step 0."
    status = run.status
    assert (status.state, status.step, status.error, run.metrics(), run.stop_requested) == (
        "queued",
        0,
        None,
        [],
        False,
    )


def test_resuming_clears_what_a_killed_worker_left_half_written(cfg, tmp_path):
    create_run(cfg, tmp_path, status="running")  # holds the device
    run = create_run(cfg, tmp_path)
    run.checkpoint_dir.mkdir()
    torn = run.checkpoint_dir / f".theta-000002.safetensors.{dead_pid()}.7.tmp"
    ours = run.path / f".status.json.{os.getpid()}.7.tmp"  # whose process may be about to rename it
    for path in (torn, ours):
        path.touch()
    run.update_status(state="failed")
    jobs.resume(run)
    assert not torn.exists() and ours.exists()


def test_a_finished_run_is_not_resumed(cfg, tmp_path):
    run = create_run(cfg, tmp_path)
    run.update_status(state="done")
    with pytest.raises(RunError, match="is finished"):
        jobs.resume(run)
    jobs.stop(run)
    assert run.status.state == "done"


@pytest.mark.parametrize(
    "changes, state, words",
    [
        ({"runner": "inline"}, "interrupted", "was closed"),
        ({"heartbeat": 1000.0}, "interrupted", "machine was restarted"),
        ({"state": "stopping"}, "stopped", "did not stop by itself"),
        ({"host": "elsewhere", "heartbeat": 1000.0}, "interrupted", "elsewhere was not heard of"),
    ],
)
def test_what_a_dead_process_leaves_is_told_apart(cfg, tmp_path, changes, state, words):
    run = create_run(cfg, tmp_path, status="running")
    run.update_status(
        **{"runner": "local", "pid": dead_pid(), "create_time": 5.0, "heartbeat": time.time()} | changes
    )
    jobs.reconcile(tmp_path)
    assert run.status.state == state and words in run.status.error


def test_a_reused_pid_is_not_taken_for_ours(cfg, tmp_path):
    run = create_run(cfg, tmp_path, status="running")
    assert jobs.reconcile(tmp_path) == []
    run.update_status(create_time=run.status.create_time - 100.0)
    assert jobs.reconcile(tmp_path) == [run]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere psutil notes the time of a start once")
@pytest.mark.parametrize("jump", [-86_400.0, 2.0, 3600.0])
def test_a_clock_that_jumps_makes_nobody_dead(cfg, tmp_path, monkeypatch, jump):
    run = create_run(cfg, tmp_path, status="running")
    now, booted = time.time, psutil._psplatform.boot_time
    monkeypatch.setattr(time, "time", lambda: now() + jump)
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: booted() + jump)  # as the kernel does
    assert jobs.alive(run.status) and jobs.reconcile(tmp_path) == []


def test_another_host_is_judged_by_its_heartbeat_alone(cfg, tmp_path):
    run = create_run(cfg, tmp_path, status="running")
    run.update_status(host="elsewhere", pid=dead_pid(), heartbeat=time.time() - 30.0)
    assert jobs.reconcile(tmp_path) == []


def test_a_deaf_worker_is_ended_by_force(cfg, tmp_path, monkeypatch):
    run = jobs.submit(EraseConfig(concepts=("deaf",), steps=2000), tmp_path)
    until(lambda: run.status.step > 2)
    jobs.stop(run)
    jobs.reconcile(tmp_path)
    assert run.status.state == "stopping" and jobs.alive(run.status)
    run.update_status(stop_asked=time.time() - 61.0)
    jobs.reconcile(tmp_path)
    until(lambda: not jobs.alive(run.status))
    jobs.reconcile(tmp_path)
    assert run.status.state == "stopped" and "was ended" in run.status.error


def test_delete_refuses_what_trains_and_what_ships(cfg, tmp_path, monkeypatch):
    run = create_run(cfg, tmp_path, status="running")
    with pytest.raises(RunError, match="Stop it first"):
        jobs.delete(run)
    run.update_status(state="done")
    jobs.delete(run)
    assert runs.list_runs(tmp_path) == [] and not run.path.exists()
    with pytest.raises(RunError, match="is gone"):
        jobs.delete(run)

    example = create_run(cfg, tmp_path)
    monkeypatch.setattr(runs, "EXAMPLE", example.path)
    for change in (jobs.delete, jobs.stop, jobs.resume):
        with pytest.raises(RunError, match="example run ships"):
            change(open_run(example.path))


@pytest.mark.parametrize("state", ["queued", "running", "stopped", "interrupted", "failed"])
def test_a_run_that_another_still_needs_is_neither_deleted_nor_resumed(cfg, tmp_path, state):
    create_run(cfg, tmp_path, status="running")  # holds the device
    base = create_run(cfg, tmp_path)
    base.update_status(state="stopped")
    later = create_run(replace(cfg, base_run=base.id), tmp_path, status="running")
    later.checkpoint_dir.mkdir()
    (later.checkpoint_dir / "state.json").write_text('{"step": 2}')
    later.update_status(state=state)
    for change in (jobs.delete, jobs.resume):
        with pytest.raises(RunError, match=f"{later.id}, which is {state}, went on from it and needs"):
            change(base)
    assert base.status.state == "stopped"
    later.update_status(state="done")
    jobs.resume(base)
    assert base.status.state == "queued"


def test_a_run_that_failed_before_it_saved_anything_needs_no_other(cfg, tmp_path):
    base = create_run(cfg, tmp_path)
    create_run(replace(cfg, base_run=base.id), tmp_path).update_status(state="failed")
    jobs.delete(base)
    assert not base.path.exists()


def test_a_damaged_run_harms_no_other_and_can_be_deleted(cfg, tmp_path):
    damaged = create_run(cfg, tmp_path)
    (damaged.path / "config.json").write_text("{")
    run = jobs.submit(cfg, tmp_path)
    assert run.status.state != "queued"
    with pytest.raises(RunError, match="config.json cannot be read"):
        jobs.resume(damaged)
    jobs.delete(damaged)
    jobs.stop(run)
    until(lambda: run.status.state == "stopped")


def test_the_watcher_starts_what_waits_and_notices_what_died(cfg, tmp_path):
    dead = create_run(cfg, tmp_path, status="running")
    dead.update_status(runner="local", pid=dead_pid())
    run = create_run(cfg, tmp_path)
    watcher = jobs.Watcher(tmp_path, every=0.1)
    watcher.start()
    until(lambda: dead.status.state == "failed" and run.status.state == "running")
    jobs.stop(run)
    until(lambda: run.status.state == "stopped")
    watcher.stop()
    assert not watcher.is_alive()


def test_who_draws_waits_for_one_step_at_most(tmp_path):
    steps, over = [], threading.Event()

    def train():
        with jobs.training_gate(tmp_path) as gate:
            while not over.is_set():
                gate()
                steps.append(len(steps))
                time.sleep(0.05)

    trainer = threading.Thread(target=train)
    trainer.start()
    until(lambda: len(steps) > 3)
    for _ in range(3):
        before = len(steps)
        with jobs.device_lock(tmp_path):
            assert len(steps) - before <= 1
            held = len(steps)
            time.sleep(0.2)
            assert len(steps) == held
        until(lambda held=held: len(steps) > held)
    over.set()
    trainer.join(5)
    with jobs.device_lock(tmp_path):
        assert not [path for path in tmp_path.glob(".device-*/train-*")]


def test_a_trainer_that_starts_meanwhile_waits_too(tmp_path):
    stepped = threading.Event()

    def train():
        with jobs.training_gate(tmp_path) as gate:
            gate()
            stepped.set()

    with jobs.device_lock(tmp_path):
        thread = threading.Thread(target=train)
        thread.start()
        assert not stepped.wait(0.3)
    assert stepped.wait(5)
    thread.join(5)


def test_a_stop_waits_for_nobody_who_draws(tmp_path):
    asked, over = threading.Event(), threading.Event()

    def train():
        with jobs.training_gate(tmp_path, asked.is_set) as gate:
            gate()
            over.set()

    with jobs.device_lock(tmp_path):
        trainer = threading.Thread(target=train)
        trainer.start()
        assert not over.wait(0.2)
        asked.set()
        assert over.wait(5)
        trainer.join(5)


def test_a_wish_of_a_dead_process_holds_nobody_up(tmp_path):
    with jobs.training_gate(tmp_path) as gate:
        (gate.folder / f"want-{dead_pid()}-1.00-abc").touch()
        (
            gate.folder / f"want-{os.getpid()}-{started(os.getpid()) - 100:.2f}-abc"
        ).touch()  # its pid is ours now
        gate()
        assert gate.lock.is_locked and not list(gate.folder.glob("want-*"))


def test_drawing_takes_turns(tmp_path):
    inside, most = [], []

    def draw():
        with jobs.device_lock(tmp_path):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=draw) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5


def real_worker(run, device):
    return [sys.executable, "-c", REAL_WORKER, str(run.path), "--device", device]


@pytest.mark.parametrize(
    "concept, state, words",
    [("short", "done", None), ("broken", "failed", "Unexpected error (ValueError: odd)")],
)
def test_the_worker_leaves_a_final_state(tmp_path, monkeypatch, concept, state, words):
    monkeypatch.setattr(jobs, "worker_command", real_worker)
    run = jobs.submit(EraseConfig(concepts=(concept,), steps=3), tmp_path)
    waits = create_run(run.config, tmp_path)
    until(lambda: run.status.state in ENDED)
    assert run.status.state == state
    assert (words is None and run.status.error is None) or run.status.error.startswith(words)
    until(lambda: "next" in waits.log_tail())  # the queue goes on without an app
    log, trace = (run.path / "log.txt").read_text(), run.path / "trace.txt"
    assert "Traceback" not in log and trace.exists() == (state == "failed")
    if words:
        assert words in log and "ValueError: odd" in trace.read_text()
        card = run_card(Studio(tmp_path), run)
        assert "trace.txt in its folder says more." in card and str(tmp_path) not in card


@pytest.mark.skipif(not hasattr(os, "nice"), reason="this system knows no niceness")
def test_workers_that_start_each_other_do_not_grow_ever_nicer():
    code = """
import os
from kpop import worker
os.nice(3)
for _ in range(3):
    worker.be_nice()
    print(os.nice(0))
"""
    before = os.nice(0)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(max(before + 3, 5))] * 3


@pytest.mark.parametrize(
    "concept, begun, words",
    [
        ("long", "running", None),
        ("loading", "starting", "It was ended before its first step. It had saved nothing yet."),
        ("deaf", "running", "It did not stop by itself and was ended. What it learned up to step 0 is kept."),
    ],
)
def test_sigterm_stops_and_keeps(tmp_path, monkeypatch, concept, begun, words):
    monkeypatch.setattr(jobs, "worker_command", real_worker)
    run = jobs.submit(EraseConfig(concepts=(concept,), steps=3000), tmp_path)
    until(lambda: run.status.state == begun and "training" in run.log_tail())
    pid = run.status.pid
    if concept == "deaf":
        run.checkpoint_dir.mkdir()
        (run.checkpoint_dir / "state.json").write_text('{"step": 0}')
        jobs.stop(run)
        run.update_status(stop_asked=time.time() - 61.0)
    os.kill(pid, signal.SIGTERM)
    until(lambda: run.status.state == "stopped" and not jobs.alive(run.status))
    assert run.status.error == words
