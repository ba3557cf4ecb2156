"""Losses of a run in TensorBoard or trackio, where they are installed; accelerate speaks to both."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from .errors import InputError
from .runs import Run

if TYPE_CHECKING:
    from .training import StepEvent

TRACKERS = ("tensorboard", "trackio")
PROJECT = "kpop-studio"


@contextmanager
def tracked(kind: str | None, run: Run) -> Iterator[Callable[[StepEvent], None]]:
    """Gives what is to be called after every step of `run`; None tracks nothing.

    tensorboard: event files in the run's folder, seen by `tensorboard --logdir RUNS`. trackio: its own
    place, project "kpop-studio". Losses, cosines and settings go there, never a key. See `check_tracker`.
    """
    check_tracker(kind)
    if kind is None:
        yield lambda event: None
        return
    tracker = _start(kind, run)
    try:
        yield lambda event: tracker.log(_values(event), step=event.step)
    finally:
        with redirect_stdout(sys.stderr):
            _finish(kind, tracker)


def check_tracker(kind: str | None) -> None:
    """Raises InputError where the tracker is unknown or not installed."""
    if kind is None:
        return
    if kind not in TRACKERS:
        raise InputError(f"A tracker is one of {', '.join(TRACKERS)}, not {kind!r}.")
    if importlib.util.find_spec(kind) is None:
        raise InputError(f"{kind} is not installed: `pip install {kind}`, or train without --track.")


def _start(kind: str, run: Run) -> Any:
    from accelerate import PartialState, tracking

    PartialState()  # a tracker asks it which process writes
    if kind == "tensorboard":
        # A resumed run takes back what it logged after its checkpoint.
        tracker = tracking.TensorBoardTracker(kind, run.path, purge_step=(run.checkpoint_step() or 0) + 1)
    else:
        tracker = tracking.TrackioTracker(PROJECT, name=run.id, resume="allow")
    with redirect_stdout(sys.stderr):  # trackio greets; a command's stdout is its answer
        tracker.start()
    settings = {name: value for name, value in run.config.to_dict().items() if value is not None}
    settings.pop("seed")  # whoever has it and the rest can make the key again
    if kind == "tensorboard":
        tracker.log({"settings": f"    {json.dumps(settings, ensure_ascii=False)}"}, step=0)
    else:
        tracker.store_init_configuration(settings)
    return tracker


def _finish(kind: str, tracker: Any) -> None:
    if kind == "tensorboard":
        tracker.finish()
        return
    import trackio

    trackio.finish()  # unlike the tracker's own, it leaves nothing for trackio to end, and say, at exit


def _values(event: StepEvent) -> dict[str, float]:
    cosines = {
        f"cosine {kind}/{text or 'neutral'}": value
        for kind, found in event.cosines.items()
        for text, value in found.items()
    }
    return {f"loss/{name.removeprefix('l_')}": loss for name, loss in event.losses.items()} | cosines
