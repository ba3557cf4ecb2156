"""How a training takes a run, which no other process trains meanwhile, and how it leaves it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from .disk import disk_error
from .errors import RunError
from .key_sealing import check_open
from .run_status import ENDED
from .runs import Run, open_run, with_seed_of

if TYPE_CHECKING:
    from .config import EraseConfig

WAIT = 2.0  # seconds; a trainer lets go within them of a run whose end it has written


@contextmanager
def training_lock(run: Run, wait: float | None = None) -> Iterator[None]:
    """Be the one process that trains or changes a run; a thread that is it already may ask again.

    A file lock in the run folder, which the system frees when its process dies. wait: seconds for another to
    let go; None: WAIT. Raises RunError where it does not.
    """
    if not run.path.is_dir():  # a lock would make it again
        raise RunError(f"{run.path} is gone: the run was deleted or moved.")
    lock = FileLock(run.path / "training.lock", is_singleton=True)  # counts how often a thread has taken it
    try:
        lock.acquire(timeout=WAIT if wait is None else wait)
    except Timeout:
        raise RunError(
            f"Another process trains run {run.id}. Wait until it ends, or stop it first."
        ) from None
    except OSError as error:
        raise disk_error(error, run.path) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def taken(run: Run, cfg: EraseConfig) -> Iterator[Run]:
    """The run, locked and claimed for this process. Raises RunError where cfg is not its own."""
    run = open_run(run)
    if run.is_example:
        raise RunError("This is the example that ships with the app; it cannot be trained on.")
    if run.config.resolved() != with_seed_of(run, cfg):
        raise RunError(
            f"Run {run.id} was started with other settings. Resume it with its own, or start a new run."
        )
    with training_lock(run):
        check_open(run)
        if run.status.state in (*ENDED, "queued"):
            run.clear_stop()
            run.claim(state="starting")
        yield run


def end_run(run: Run, state: str, error: str | None = None) -> None:
    """Write its final state, where the disk lets."""
    try:
        run.update_status(state=state, eta_s=None, error=error)
    except RunError:
        return  # the disk that failed the run refuses this too; readers judge by the process
