"""The runs that an X/Y grid over lambda or k lacks: told beside the grid, and queued when asked."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..alike_runs import Alike
from ..config import EraseConfig
from ..errors import InputError, KpopError, RunError
from ..run_status import ACTIVE
from .run_picker import share
from .studio import Studio


def missing(found: Sequence[Alike]) -> list[EraseConfig]:
    """The trainings that nobody has started, each once, in the grid's order."""
    return list(dict.fromkeys(one.config for one in found if one.missing))


def waiting_word(found: Alike) -> str:
    """What stands in a cell that has no finished run yet."""
    if found.going is None:
        return "not trained yet"
    status = found.going.status
    return f"in training, {share(status)} %" if status.state in ACTIVE[1:] else "waits to be trained"


def missing_html(studio: Studio, found: Sequence[Alike]) -> str:
    """HTML: how many of the grid's runs are there, wait, and are missing; "" where all are there."""
    every = {one.config: one for one in found}
    left = len(missing(found))
    going = sum(one.done is None and one.going is not None for one in every.values())
    if not left + going:
        return ""
    told = []
    if left:
        told.append(f"{left} of {len(every)} runs {'is' if left == 1 else 'are'} missing")
    if going:
        told.append(f"{going} of {len(every)} {'waits or trains' if going == 1 else 'wait or train'}")
    then = "Draw the grid again when they are done." if going and not left else ""
    if left and not studio.read_only:
        then = "Train them, and draw the grid again when they are done: they differ in nothing else."
    return f'<p class="fine" role="status"><b>{escape("; ".join(told))}.</b> {then}</p>'


def train_missing(studio: Studio, run, found: Sequence[Alike], owner: str) -> tuple[list, str]:
    """Queue what is missing, as many as the visitor's limits allow; the new runs, and why not all, or "".

    run: whose settings they have. Raises KpopError where none can be queued.
    """
    wanted = missing(found)
    if not wanted:
        raise RunError("No run of this grid is missing. Draw it again when those in training are done.")
    if studio.exposure.shared and run.config.model != studio.model:
        raise InputError("This app is shared: runs are of its own model.")
    if run.config.base_run is not None and not studio.may_change(run, owner):
        # The keys of the run it started from would come along.
        raise RunError("This run goes on from another one, so only who started it may train more like it.")
    if run.method.has_key and not run.is_example and not studio.may_change(run, owner):
        # The new runs' owner would read the seed, with which this run's key can be made again.
        raise RunError("Somebody else started this run, so only they may train more like it.")
    queued: list = []
    for config in wanted:
        try:
            queued.append(studio.submit(config, owner))
        except KpopError as error:
            if not queued:
                raise
            return queued, str(error)
    return queued, ""
