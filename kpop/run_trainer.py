"""How a training takes a run, and how it leaves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import RunError
from .key_sealing import check_open
from .run_status import ENDED
from .runs import Run, open_run, with_seed_of

if TYPE_CHECKING:
    from .config import EraseConfig


def taken(run: Run, cfg: EraseConfig) -> Run:
    """The run, claimed for this process to go on with. Raises RunError where cfg is not its own."""
    run = open_run(run)
    if run.is_example:
        raise RunError("This is the example that ships with the app; it cannot be trained on.")
    if run.config.resolved() != with_seed_of(run, cfg):
        raise RunError(
            f"Run {run.id} was started with other settings. Resume it with its own, or start a new run."
        )
    check_open(run)
    if run.status.state in ENDED:
        run.clear_stop()
        run.claim(state="starting")
    return run


def end_run(run: Run, state: str, error: str | None = None) -> None:
    """Write its final state, where the disk lets."""
    try:
        run.update_status(state=state, eta_s=None, error=error)
    except RunError:
        return  # the disk that failed the run refuses this too; readers judge by the process
