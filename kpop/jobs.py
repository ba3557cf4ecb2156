"""Trainings in the background: a queue of run folders, one detached process a run, one run a device.

Runs of runner "ray" have a queue of their own, which ray_runner.py hands to a cluster.

Everything is in the run folders, so a server may be restarted, or run twice on one folder, at any moment.
States: queued -> starting -> running -> stopping -> done | stopped | failed | interrupted.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import psutil

from . import forging_jobs
from .config import EraseConfig
from .detached import alive, signal_session, start_detached
from .disk import clear_torn, disk_error, is_locked, locked
from .errors import KpopError, RunError
from .evaluation_jobs import check_idle, end_all
from .key_sealing import check_open, copies
from .run_status import ENDED, RunStatus, host_name, process_fields
from .run_trainer import training_lock
from .runs import Run, create_run, list_runs
from .turns import device_lock, training_gate

__all__ = [
    "Watcher",
    "alive",
    "delete",
    "device_lock",
    "queue_position",
    "reconcile",
    "resume",
    "start_next",
    "stop",
    "submit",
    "training_gate",
]

HELD = ("starting", "running", "stopping")  # states with a process
TERM_AFTER = 60.0  # seconds from the wish to stop to SIGTERM
KILL_AFTER = 90.0  # seconds from the wish to stop to SIGKILL
DEAF = "It did not stop by itself and was ended."
DISPATCHER_LOCK = ".ray.lock"  # in the runs folder, held as long as a dispatcher works

log = logging.getLogger(__name__)


def submit(
    cfg: EraseConfig,
    runs_dir: str | Path,
    owner: str = "local",
    device: str = "auto",
    runner: str = "local",
) -> Run:
    """Queue a run and start it if its device is free. Raises RunError when the folder cannot be written."""
    run = create_run(cfg, runs_dir, owner=owner, device=device, runner=runner)
    start_next(runs_dir, runner)
    return run


def start_next(runs_dir: str | Path, runner: str = "local") -> list[Run]:
    """Start queued runs, oldest first, whose device is free; returns them. Safe from several servers.

    runner "ray": see to it that what is queued for the cluster is handed to it; returns none.
    """
    started = []
    if not Path(runs_dir).is_dir():
        return started
    if runner == "ray":
        if waiting(runs_dir, runner) and not dispatching(runs_dir):
            try:
                start_detached(dispatcher_command(runs_dir), Path(runs_dir) / ".ray.log")
            except OSError as error:
                raise disk_error(error, Path(runs_dir)) from error
        return started
    with locked(Path(runs_dir) / ".queue.lock"):
        busy = [
            its.device
            for its in (run.status for run in list_runs(runs_dir) if not run.is_example)
            if its.state in HELD and its.host == host_name() and its.runner != "ray"
        ]
        for run, status in waiting(runs_dir):
            # A run that has to wait also holds its device against younger ones.
            if not any(_same_device(status.device, other) for other in busy) and _start(run, status.device):
                started.append(run)
            busy.append(status.device)
    return started


def _start(run: Run, device: str) -> bool:
    fresh = {
        "state": "starting",
        "host": host_name(),
        "pid": None,
        "create_time": None,
        "heartbeat": time.time(),
    }
    if not run.transition(("queued",), **fresh, runner="local", error=None, stop_asked=None):
        return False
    try:
        pid = start_detached(worker_command(run, device), run.path / "log.txt")
    except OSError as error:
        problem = f"The training process could not be started ({error.strerror or error}). Try again."
        run.update_status(state="failed", error=problem)
        return False
    # The worker writes the same of itself; this covers the time until it does, or another has taken the run.
    if run.status.pid is None:
        run.transition(HELD, **process_fields(pid))
    return True


def worker_command(run: Run, device: str) -> list[str]:
    """What trains a run: see worker.py."""
    return [sys.executable, "-m", "kpop.worker", str(run.path), "--device", device]


def dispatcher_command(runs_dir: str | Path) -> list[str]:
    """What hands queued runs to a Ray cluster: see ray_runner.py."""
    return [sys.executable, "-m", "kpop.ray_runner", str(Path(runs_dir).resolve())]


def dispatching(runs_dir: str | Path) -> bool:
    """Whether some machine's dispatcher has this folder's Ray runs in hand."""
    return is_locked(Path(runs_dir) / DISPATCHER_LOCK)


def waiting(runs_dir: str | Path, runner: str = "local") -> list[tuple[Run, RunStatus]]:
    """The queued runs of a runner with their status, oldest first."""
    runs = [(run, run.status) for run in list_runs(runs_dir) if not run.is_example]
    queued = [(run, its) for run, its in runs if its.state == "queued" and its.runner == runner]
    return sorted(queued, key=_place)


def _place(item: tuple[Run, RunStatus]) -> tuple:
    run, status = item
    return (status.queued_at or status.made, run.id)


def _same_queue(a: RunStatus, b: RunStatus) -> bool:
    """Whether one may have to wait for the other: on Ray for each other, else for the same device."""
    if "ray" in (a.runner, b.runner):
        return a.runner == b.runner
    return _same_device(a.device, b.device)


def _same_device(a: str, b: str) -> bool:
    a, b = ("cuda:0" if name == "cuda" else name for name in (a, b))
    return a == b or "auto" in (a, b)


def queue_position(run: Run) -> int | None:
    """How many runs go before this one, those in training included; None when it is not waiting."""
    status = run.status
    if status.state != "queued":
        return None
    before = 0
    for other in list_runs(run.path.parent):
        its = other.status
        if other.id != run.id and not other.is_example and _same_queue(status, its):
            held = its.state in HELD and (its.host == host_name() or its.runner == "ray")
            before += held or (its.state == "queued" and _place((other, its)) < _place((run, status)))
    return before


def reconcile(runs_dir: str | Path) -> list[Run]:
    """Make the states true: runs whose process died end, the deaf ones are ended. Returns changed runs."""
    changed = []
    for run in list_runs(runs_dir):
        if run.is_example or run.damage:
            continue
        try:
            if _reconcile(run):
                changed.append(run)
        except RunError as error:
            log.warning("%s: %s", run.id, error)
    return changed


def _reconcile(run: Run) -> bool:
    status = run.status
    if status.state not in HELD:
        return False
    if status.runner == "ray" and dispatching(run.path.parent):
        return False  # the dispatcher knows whether Ray starts it again
    if alive(status):
        if status.state == "stopping" and status.stop_asked is not None:
            _press(status, time.time() - status.stop_asked)
        return False
    kept = kept_in_words(run)
    if status.state == "stopping":
        state, error = "stopped", f"{DEAF} {kept}"
    elif status.host != host_name():
        state, error = "interrupted", f"{status.host or 'Its machine'} was not heard of for a minute. {kept}"
    elif status.heartbeat is not None and psutil.boot_time() > status.heartbeat:
        state, error = "interrupted", f"The machine was restarted while it trained. {kept}"
    elif status.runner != "local":
        state, error = "interrupted", f"The program that trained it was closed. {kept}"
    else:
        end = f"The training process was killed or ran out of memory at step {status.step}."
        state, error = "failed", f"{end} {kept}"
    return run.transition((status.state,), state=state, error=error, eta_s=None)


def kept_in_words(run: Run) -> str:
    """What is left of a training that ended before its time."""
    step = run.checkpoint_step()
    return "It had saved nothing yet." if step is None else f"What it learned up to step {step} is kept."


def _press(status: RunStatus, waited: float) -> None:
    """End a worker of ours that was asked to stop and did not; other programs (a notebook) are left alone."""
    if status.runner == "local" and waited >= TERM_AFTER:
        signal_session(status, signal.SIGKILL if waited >= KILL_AFTER else signal.SIGTERM)


def stop(run: Run) -> None:
    """Ask a run to save and stop; one that waits just leaves the queue. Ended runs stay as they are."""
    _own(run, "stopped")
    if run.transition(("queued",), state="stopped", eta_s=None):
        return
    if run.transition(("starting", "running"), state="stopping", stop_asked=time.time()):
        run.request_stop()
    _reconcile(run)


def resume(run: Run, device: str | None = None, runner: str | None = None) -> str:
    """Queue a stopped, failed or interrupted run again; says in a sentence where it goes on.

    From its checkpoint, or from step 0 if it has none. runner: "local" or "ray"; None: where it was.
    Raises RunError in any other state, and while another run needs it as it is.
    """
    runner = runner or ("ray" if run.status.runner == "ray" else "local")
    prepare_resume(run, device, runner=runner)
    step = run.checkpoint_step()
    start_next(run.path.parent, runner)
    if step is None:
        return "It has no checkpoint: it starts again from step 0."
    return f"It goes on from step {step}."


def prepare_resume(run: Run, device: str | None = None, **changes) -> None:
    """Make an ended run ready to go on: "queued", its curves cut back to the checkpoint. Raises RunError."""
    _own(run, "resumed")
    if run.config_damage:
        raise RunError(run.config_damage)
    check_idle(run)  # or it would go on with other weights
    _reconcile(run)
    with locked(run.path.parent / ".queue.lock"):
        state = run.status.state
        if state == "done":
            raise RunError(f"Run {run.id} is finished. Start a new run to train longer.")
        if state not in ENDED:
            raise RunError(f"Run {run.id} is {state}: there is nothing to resume.")
        check_not_needed(run, "resumed")
        check_open(run)
        forging_jobs.check_not_forging(run)
        with training_lock(run):
            run.checkpoint_states()
            step = run.checkpoint_step()
            run.clear_stop()
            forging_jobs.drop(run)
            for folder in (run.path, run.checkpoint_dir, run.secret_dir):
                clear_torn(folder)  # of a worker killed in a write; a checkpoint's can be gigabytes
            run.truncate_metrics(step or 0)
            if step is None:
                shutil.rmtree(run.path / "samples", ignore_errors=True)
            fresh = dict.fromkeys(("error", "eta_s", "pid", "create_time", "heartbeat", "stop_asked"))
            fresh |= {"state": "queued", "queued_at": time.time(), "runner": "local"}
            fresh |= {"step": step or 0, "steps": int(run.config.steps or 0)}
            run.update_status(**fresh | ({"device": device} if device else {}) | changes)


def check_not_needed(run: Run, verb: str) -> None:
    """Raise RunError where a run that went on from this one is not done: it needs these weights unchanged.

    One that failed before it saved anything needs none.
    """
    for other in copies(run, list_runs(run.path.parent)):
        state = other.status.state
        if state != "done" and (state != "failed" or other.has_checkpoint):
            raise RunError(
                f"Run {run.id} cannot be {verb} now: {other.id}, which is {state}, went on from it and "
                "needs its weights as they are. Let that one finish, or delete it first."
            )


def delete(run: Run) -> None:
    """Remove a run folder, keys included. RunError while it trains or is needed, and for the example."""
    _own(run, "deleted")
    check_not_needed(run, "deleted")
    if not run.damage:
        _reconcile(run)
        run.transition(("queued",), state="stopped")
        if run.status.state in HELD:
            raise RunError(f"Run {run.id} is {run.status.state}. Stop it first, then delete it.")
    end_all(run)
    forging_jobs.end(run)
    aside = run.path.with_name(
        f".deleted-{run.id}-{time.time_ns()}"
    )  # out of every list before it falls apart
    try:
        os.rename(run.path, aside)
        shutil.rmtree(aside)
    except OSError as error:
        raise disk_error(error, run.path) from error


def _own(run: Run, verb: str) -> None:
    if run.is_example:
        raise RunError(f"The example run ships with the app and cannot be {verb}. Train a run of your own.")
    if not run.path.is_dir():
        raise RunError(f"{run.path} is gone: the run was deleted or moved.")


class Watcher(threading.Thread):
    """Every two seconds: reconcile, then start what is queued. start() it with the app, then stop() it."""

    def __init__(self, runs_dir: str | Path, every: float = 2.0, runner: str = "local"):
        super().__init__(name="kpop-watcher", daemon=True)
        self.runs_dir, self.every, self.runner = Path(runs_dir), every, runner
        self._over = threading.Event()

    def run(self) -> None:
        """Watch until stop(); what goes wrong is logged and tried again."""
        while True:
            try:
                reconcile(self.runs_dir)
                for runner in dict.fromkeys(("local", self.runner)):
                    start_next(self.runs_dir, runner)
            except (KpopError, OSError) as error:
                log.warning("%s", error)
            except Exception:
                log.exception("watching %s", self.runs_dir)  # a watcher that dies leaves every run unwatched
            if self._over.wait(self.every):
                return

    def stop(self) -> None:
        """End the thread; trainings go on."""
        self._over.set()
        if self.is_alive():
            self.join(timeout=10.0)
