"""Several cells at once on one machine: processes that load the model once and take cell after cell.

For a big GPU, which one small training does not fill. Cells are written as they grow, so a process may be
ended at any time.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from ..errors import KpopError

GRACE = 5.0  # seconds a process gets to end by itself


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
    after which the processes are ended and what is not begun is left. A process that dies costs its cell
    alone: another takes its place. KeyboardInterrupt ends them too.
    """
    until = None if minutes is None else time.monotonic() + 60 * minutes
    jobs = max(1, min(jobs, len(cells)))
    left, failed, workers = deque(range(len(cells))), [], []

    def end(worker: _Worker, error: str) -> None:
        tell(Told(worker.number, error, time.monotonic() - worker.began))
        failed.extend([error] if error else [])
        worker.number = None

    try:
        while left or any(worker.number is not None for worker in workers):
            while len(workers) < jobs and len(left) > sum(worker.number is None for worker in workers):
                workers.append(_hired(make, jobs))
            for worker in workers:
                if worker.number is None and left:
                    worker.number, worker.began = left.popleft(), time.monotonic()
                    worker.pipe.send(cells[worker.number])
                    tell(Told(worker.number, None))
            rest = None if until is None else until - time.monotonic()
            if rest is not None and rest <= 0:
                break
            ready = wait([worker.pipe for worker in workers], rest)
            for worker in [worker for worker in workers if worker.pipe in ready]:
                try:
                    end(worker, worker.pipe.recv())
                except EOFError:
                    worker.process.join()
                    what = f"The process that made cell {worker.number + 1} of {len(cells)} ended"
                    end(worker, f"{what} with status {worker.process.exitcode}.")
                    workers.remove(worker)
    finally:
        _dismiss(workers)
    return failed


def _hired(make: Callable, jobs: int) -> _Worker:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    process = context.Process(target=_work, args=(make, theirs, threads), daemon=True)
    process.start()
    theirs.close()  # or the end of the process would not be heard
    return _Worker(process, mine)


def _dismiss(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    until = time.monotonic() + GRACE
    for worker in workers:
        worker.process.join(max(0.0, until - time.monotonic()))
        worker.process.kill()


def _work(make: Callable, pipe: Connection, threads: int) -> None:
    """A process's life: cells come in, "" or what went wrong goes out."""
    import torch

    torch.set_num_threads(1 if torch.cuda.is_available() else threads)
    make_one = None
    while True:
        try:
            cell = pipe.recv()
            make_one = make_one or make()
            make_one(cell)
            pipe.send("")
        except KpopError as error:
            pipe.send(str(error))
        except (EOFError, KeyboardInterrupt):
            return  # the command has ended, or heard the same Ctrl-C
