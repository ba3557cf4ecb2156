"""Who may use the device now: drawing for a visitor goes before training, and waits for one step at most.

In <runs>/.device-<host>/ every trainer holds its own lock during a step and looks for "want" files before the
next; who draws leaves such a file, then takes the trainers' locks. Drawings take turns among themselves.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import RunError
from .run_status import host_name, started

DRAW_TIMEOUT = 900.0  # seconds a drawing waits for drawings before it, or for one training step
POLL = 0.02  # seconds
LONGEST_BREAK = 60.0  # seconds that long work leaves to others after a part of it


def _folder(runs_dir: str | Path) -> Path:
    host = re.sub(r"[^A-Za-z0-9.-]", "-", host_name())[:60]
    folder = Path(runs_dir) / f".device-{host}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def device_lock(runs_dir: str | Path) -> Iterator[None]:
    """The device for one piece of drawing: trainers of this runs folder and host pause between two steps.

    In a folder that cannot be written nothing trains, so nothing is waited for. RunError after 15 minutes.
    """
    try:
        folder = _folder(runs_dir)
        want = folder / _mark("want")
        turn = FileLock(folder / "draw.lock", timeout=DRAW_TIMEOUT)
        turn.acquire()
    except Timeout:
        raise RunError(
            "The device has been busy with other drawings for 15 minutes. Try again later."
        ) from None
    except OSError:
        yield
        return
    with ExitStack() as held:
        held.callback(turn.release)
        held.callback(want.unlink, missing_ok=True)
        try:
            want.touch()
            for path in folder.glob("train-*.lock"):
                held.enter_context(FileLock(path, timeout=DRAW_TIMEOUT))
        except Timeout:
            raise RunError(
                "The training in the background does not pause. Stop it, then try again."
            ) from None
        except OSError as error:
            raise RunError(
                f"{folder} cannot be used ({error.strerror}). Check the disk, then try again."
            ) from error
        yield


@contextmanager
def shared_turn(runs_dir: str | Path) -> Iterator[None]:
    """device_lock for a part of long work; after it, whoever trains or waits gets as much time as it took."""
    with device_lock(runs_dir):
        began = time.monotonic()
        yield
    now = time.monotonic()
    until = now + min(now - began, LONGEST_BREAK)
    while time.monotonic() < until and _others(runs_dir):
        time.sleep(POLL)


def _others(runs_dir: str | Path) -> bool:
    """Whether somebody trains, draws or waits to."""
    try:
        return any(_lives(path.name) for path in _folder(runs_dir).iterdir())
    except OSError:
        return False


def evaluation_turn(runs_dir: str | Path) -> FileLock:
    """Held by the one evaluation of this runs folder and host that works; the others wait for it."""
    return FileLock(_folder(runs_dir) / "evaluate.lock")


class training_gate:
    """Called before every training step; returns once nobody wants to draw, and holds the trainer's lock.

    stopped: whether a stop is asked for: then it waits for nobody, and may return without the lock.
    Close it (or use it in `with`) when the training ends, also before long work that needs no device.
    """

    def __init__(self, runs_dir: str | Path, stopped: Callable[[], bool] = lambda: False):
        self.folder, self.stopped = _folder(runs_dir), stopped
        self.lock = FileLock(self.folder / f"{_mark('train')}.lock")

    def __call__(self) -> None:
        while not self.stopped():
            if not self.lock.is_locked:
                try:
                    self.lock.acquire(timeout=POLL)
                except Timeout:
                    continue
            if not self.wanted():
                return
            # Released before waiting, and looked again after taking it back: see device_lock's order.
            self.lock.release()
            while self.wanted() and not self.stopped():
                time.sleep(POLL)

    def wanted(self) -> bool:
        """Whether somebody draws or waits to; a file left by a dead process is cleared away."""
        for path in self.folder.glob("want-*"):
            if _lives(path.name):
                return True
            path.unlink(missing_ok=True)
        return False

    def close(self) -> None:
        """Give the device back for good."""
        self.lock.release(force=True)
        Path(self.lock.lock_file).unlink(missing_ok=True)

    def __enter__(self) -> training_gate:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _mark(what: str) -> str:
    """A file name that tells which process left it: what-pid-start-unique."""
    return f"{what}-{os.getpid()}-{started(os.getpid()):.2f}-{uuid.uuid4().hex[:8]}"


def _lives(mark: str) -> bool:
    """Whether who left a mark still works. In a container the next app often has the pid of the last."""
    import psutil

    try:
        _, pid, since, _ = mark.split("-")
        return abs(started(int(pid)) - float(since)) < 1.0
    except (ValueError, psutil.Error):
        return False
