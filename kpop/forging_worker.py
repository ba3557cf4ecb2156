"""The process that forges a run's keys: python -m kpop.forging_worker <run folder>. See forging_jobs.py."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from .detached import heartbeat
from .forging_jobs import FOLDER
from .run_status import change_status, process_fields
from .runs import Run, open_run
from .turns import evaluation_turn, training_gate
from .worker import be_nice, failed_words

WAITING = 0.5  # seconds between two looks at whether it is our turn
TOLD_EVERY = 1.0  # seconds between two numbers of steps


def main(argv: list[str] | None = None) -> int:
    """Forge the keys of the run on the command line; returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    if len(words) != 1:
        print("usage: python -m kpop.forging_worker RUN_FOLDER", file=sys.stderr)
        return 2
    run = open_run(Path(words[0]))
    folder = run.path / FOLDER
    be_nice()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the server's terminal is not meant for it
    state, error = "failed", None
    try:
        change_status(folder, None, process_fields())
        _forge(run, folder)
        state = "done"
    except KeyboardInterrupt:
        state = "stopped"
    except Exception as problem:
        error = failed_words(folder, problem)
        print(error, file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end is written, whoever asks meanwhile
    change_status(folder, None, {"state": state, "error": error, "eta_s": None})
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {state}", flush=True)
    return 0 if state in ("done", "stopped") else 1


def _forge(run: Run, folder: Path) -> None:
    change_status(folder, ("starting",), {"state": "queued"})
    turn = evaluation_turn(run.path.parent)
    with heartbeat(lambda: change_status(folder, None, {"heartbeat": time.time()})):
        turn.acquire(poll_interval=WAITING)
        try:
            status = change_status(folder, ("queued",), {"state": "running"})
            if status is None:
                raise KeyboardInterrupt  # a stop came before it had begun
            from .forging import forge_keys  # torch

            told = 0.0

            def on_step(step: int) -> None:
                nonlocal told
                if time.monotonic() - told > TOLD_EVERY:
                    told = time.monotonic()
                    change_status(folder, None, {"step": step})

            with training_gate(run.path.parent) as gate:
                forge_keys(run, status.device, gate, on_step)
            change_status(folder, None, {"step": status.steps})
        finally:
            turn.release()


if __name__ == "__main__":
    sys.exit(main())
