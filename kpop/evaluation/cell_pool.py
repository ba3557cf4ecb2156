"""Several cells at once on one machine: processes that load the model once and take cell after cell.

For a big GPU, which one small training does not fill. Cells are written as they grow, so a process may be
ended at any time; one that is asked to (SIGINT, once) also saves the training it is at.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from ..disk import brief
from ..errors import KpopError

GRACE = 5.0  # seconds a process gets to save and end by itself


@dataclass(frozen=True)
class Told:
    """What became of cell `number`: error is None while it is only begun, "" when made, else why not."""

    number: int
    error: str | None
    seconds: float = 0.0


@dataclass
class _Worker:
    process: multiprocessing.Process
    pipe: Connection
    number: int | None = None  # of the cell it makes
    began: float = 0.0


def make_all(
    cells: Sequence[Any],
    make: Callable[[], Callable[[Any], None]],
    jobs: int,
    minutes: float | None = None,
    tell: Callable[[Told], None] = lambda told: None,
) -> list[str]:
    """Make every cell in up to `jobs` processes; returns a sentence for each that failed.

    make: picklable; called once in each process, it loads the model and returns what makes one cell. minutes:
    after which the processes are asked to save and end, and what is not begun is left. A process that dies
    costs its cell alone: another takes its place.
    Raises KeyboardInterrupt, for SIGTERM too, once they have ended.
    """
    until = None if minutes is None else time.monotonic() + 60 * minutes
    jobs = max(1, min(jobs, len(cells)))
    left, failed, workers = deque(range(len(cells))), [], []

    def end(worker: _Worker, error: str) -> None:
        tell(Told(worker.number, error, time.monotonic() - worker.began))
        failed.extend([error] if error else [])
        worker.number = None

    def lose(worker: _Worker) -> None:
        workers.remove(worker)
        worker.process.join(GRACE)
        if worker.number is not None:
            what = f"The process that made cell {worker.number + 1} of {len(cells)} ended"
            end(worker, f"{what} with status {worker.process.exitcode}.")

    with _sigterm_as_ctrl_c():
        try:
            while left or any(worker.number is not None for worker in workers):
                rest = None if until is None else until - time.monotonic()
                if rest is not None and rest <= 0:
                    break
                while len(workers) < jobs and len(left) > sum(worker.number is None for worker in workers):
                    workers.append(_hired(make))
                for worker in [worker for worker in workers if worker.number is None]:
                    if not left:
                        break  # more are idle than there are cells
                    worker.number, worker.began = left.popleft(), time.monotonic()
                    try:
                        worker.pipe.send(cells[worker.number])
                    except OSError:  # it died while it had nothing to do: the cell is another's
                        left.appendleft(worker.number)
                        worker.number = None
                        lose(worker)
                    else:
                        tell(Told(worker.number, None))
                ready = wait([worker.pipe for worker in workers], rest) if workers else ()
                for worker in [worker for worker in workers if worker.pipe in ready]:
                    try:
                        error, stays = worker.pipe.recv()
                    except (EOFError, OSError):
                        lose(worker)
                        continue
                    end(worker, error)
                    if not stays:
                        workers.remove(worker)
        finally:
            _dismiss(workers)
    return failed


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM would end this process alone and leave the others at work."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _hired(make: Callable) -> _Worker:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_work, args=(make, theirs), daemon=True)
    # A Ctrl-C while it starts waits until it ends the process without a traceback.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()  # or the end of the process would not be heard
    return _Worker(process, mine)


def _dismiss(workers: Sequence[_Worker]) -> None:
    """Who makes a cell saves it first; whoever is not done after GRACE seconds is killed."""
    for worker in workers:
        if worker.number is None:
            worker.process.terminate()
        elif worker.process.is_alive():
            os.kill(worker.process.pid, signal.SIGINT)  # once: a second one would tear the step
    until = time.monotonic() + GRACE
    for worker in workers:
        worker.process.join(max(0.0, until - time.monotonic()))
        worker.process.kill()
    for worker in workers:
        worker.process.join(1.0)


def _work(make: Callable, pipe: Connection) -> None:
    """A process's life: cells come in; "" or what went wrong goes out, and whether it takes another."""
    os.setsid()  # a terminal's Ctrl-C is the command's to pass on
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is lost while the model loads
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_the_command, daemon=True).start()
    make_one = None
    try:
        while True:
            cell = pipe.recv()
            try:
                make_one = make_one or make()
                signal.signal(signal.SIGINT, signal.default_int_handler)
                make_one(cell)
                told = ""
            except KpopError as error:
                told = str(error)
            except Exception as error:
                # Memory refused, or a device lost: what is left of this process is not to be trusted.
                pipe.send((_words(error), False))
                return
            pipe.send((told, True))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return  # the command has ended, or asked for the end


def _end_with_the_command() -> None:
    """In a session of its own nobody else ends a process whose command was killed."""
    wait([multiprocessing.parent_process().sentinel])
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(GRACE)
    os._exit(1)


def _words(error: Exception) -> str:
    if "torch" in sys.modules:
        from ..health import device_words, is_of_device

        if is_of_device(error):
            return device_words(error)
    return f"{type(error).__name__}: {brief(error)}."
