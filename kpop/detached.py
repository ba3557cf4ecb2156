"""Processes that outlive the program that starts them: a training, an evaluation."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from .disk import LOCK_TIMEOUT
from .errors import RunError
from .run_status import RunStatus, host_name, started

SILENT = 60.0  # seconds without a heartbeat after which a process of another host counts as dead
HEARTBEAT_EVERY = 5.0  # seconds
REPO = Path(__file__).resolve().parent.parent


def start_detached(command: Sequence[str], log: Path) -> int:
    """Start a process in a session of its own, its output at the end of `log`; its pid. Raises OSError."""
    env = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": python_path()}
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=env,
        )
    threading.Thread(target=process.wait, name=f"reap-{process.pid}", daemon=True).start()
    return process.pid


def python_path() -> str:
    """PYTHONPATH with which another process finds this package."""
    return os.pathsep.join(path for path in (str(REPO), os.environ.get("PYTHONPATH", "")) if path)


def alive(status: RunStatus) -> bool:
    """Whether the process in a status still works: by pid on this host, by heartbeat on another."""
    if status.host == host_name() and status.pid is not None:
        try:
            same = status.create_time is None or abs(started(status.pid) - status.create_time) < 1.0
            return same and psutil.Process(status.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False
    return status.heartbeat is not None and time.time() - status.heartbeat <= SILENT


def signal_session(status: RunStatus, number: signal.Signals) -> None:
    """Signal the process in a status and what it started; nothing where it is not ours, or ended."""
    if status.host != host_name() or status.pid is None:
        return
    try:
        if os.getpgid(status.pid) == status.pid:
            os.killpg(status.pid, number)
    except ProcessLookupError:
        return  # it ended meanwhile


@contextmanager
def heartbeat(beat: Callable[[], object], every: float = HEARTBEAT_EVERY) -> Iterator[None]:
    """Call `beat`, which writes a status, from a thread while the body works (loading a model takes long)."""
    over = threading.Event()

    def go_on():
        while not over.wait(every):
            try:
                beat()
            except RunError:
                continue  # a full disk is the body's to report; it may be freed before the next beat

    thread = threading.Thread(target=go_on, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=LOCK_TIMEOUT)
