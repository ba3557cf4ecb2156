"""The process that trains one run: python -m kpop.worker <run folder> [--device D]. Started by jobs.py."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .detached import heartbeat
from .errors import KpopError, RunError
from .jobs import DEAF, kept_in_words, start_next
from .run_records import keep_trace
from .run_status import ENDED
from .run_trainer import training_lock
from .runs import Run, open_run
from .turns import training_gate

NICENESS = 5  # the page stays quick while a run trains on the same processor


class Ended(BaseException):
    """SIGTERM at a moment when waiting for the end of a step makes no sense; says why in a sentence."""


def train_run(
    run: Run, device: str = "auto", runner: str = "local", on_step: Callable | None = None, pipe=None
) -> Run:
    """Train a run in this process and leave a final state in its folder, whatever happens.

    runner: "local" (a worker), "ray" (a task of a cluster) or "inline" (a command in the foreground).
    pipe: its model, if loaded already.
    Raises what the training raised; RunError, with the status left as it is, where another process trains it.
    """
    with training_lock(run):  # before a word of it is written into the folder of who trains it
        return _train_locked(run, device, runner, on_step, pipe)


def _train_locked(run: Run, device: str, runner: str, on_step: Callable | None, pipe) -> Run:
    run.claim(runner=runner, state="starting")
    running = False

    def stepped(event):
        nonlocal running
        if not running:
            running = True
            run.transition(("starting",), state="running")
        if on_step is not None:
            on_step(event)

    try:
        with (
            heartbeat(lambda: run.update_status(heartbeat=time.time())),
            training_gate(run.path.parent, lambda: run.stop_requested) as gate,
        ):
            from . import training

            training.train(run.config, run=run, pipe=pipe, on_step=stepped, device=device, gate=gate)
    except Ended as why:
        _end(run, "stopped", f"{why} {kept_in_words(run)}")
        raise
    except KeyboardInterrupt:
        _end(run, "stopped")
        raise
    except BaseException as error:
        run.update_status(state="failed", eta_s=None, error=failed_words(run.path, error))
        raise
    status = run.status
    short = run.stop_requested and status.step < status.steps
    _end(run, "stopped" if short else "done")
    return run


def _end(run: Run, state: str, error: str | None = None) -> None:
    if run.status.state not in ENDED:
        run.update_status(state=state, eta_s=None, error=error)


def failed_words(folder: Path, error: BaseException) -> str:
    """`in_words`; of an error that is not ours the traceback goes to trace.txt in the folder."""
    words = in_words(error)
    return words if isinstance(error, KpopError) else f"{words} {keep_trace(folder, error)}".rstrip()


def in_words(error: BaseException) -> str:
    """A sentence for the user, without a traceback."""
    if isinstance(error, KpopError):
        return str(error)
    name = type(error).__name__
    if isinstance(error, MemoryError) or name in ("OutOfMemoryError", "AcceleratorError"):
        from .health import device_words

        return device_words(error)
    text = str(error).strip().split("\n")[0][:200]
    return f"Unexpected error ({name}: {text})."


def be_nice() -> None:
    """To NICENESS, not by it: a worker is often started by the one before, and would be nicer than that."""
    if hasattr(os, "nice"):
        os.nice(max(0, NICENESS - os.nice(0)))


def main(argv: list[str] | None = None) -> int:
    """Train the run given on the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m kpop.worker", description=__doc__)
    parser.add_argument("run", help="path of the run folder")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    try:
        run = open_run(Path(args.run))
    except KpopError as error:
        print(error, file=sys.stderr)
        return 2
    be_nice()

    def terminate(*_):
        # Once: save at the end of this step. Twice, or before the first step: at once.
        again, loading = run.stop_requested, run.status.state == "starting"
        run.request_stop()
        if loading:
            raise Ended("It was ended before its first step.")
        if again and run.status.state == "stopping" and asked_long_ago():
            raise Ended(DEAF)

    def asked_long_ago() -> bool:
        asked = run.status.stop_asked
        return asked is not None and time.time() - asked > 30.0

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C in the server's terminal is not meant for the worker
    try:
        return _train(run, args.device)
    finally:
        try:
            start_next(run.path.parent)  # the queue goes on where no app watches it
        except RunError as error:
            print(error, file=sys.stderr)


def _train(run: Run, device: str) -> int:
    try:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} training {run.id} on {device}", flush=True)
        train_run(run, device)
    except Ended as why:
        words = f"{why} {kept_in_words(run)}"
        _end(run, "stopped", words)  # train_run has, unless the end came before it had begun
        print(words, flush=True)
        return 0
    except Exception as error:
        print(in_words(error), file=sys.stderr)
        return 1
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {run.status.state}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
