"""The process of one evaluation: python -m kpop.evaluation_worker <folder>. Started by evaluation_jobs.py.

One of runner "ray" is a task of the cluster; this process waits for it and tells how far it is.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .cli import build_parser
from .detached import heartbeat
from .disk import write_json
from .evaluation.standing import count_predicted
from .evaluation_jobs import EvaluationJob
from .run_status import change_status, host_name, process_fields
from .turns import evaluation_turn
from .worker import be_nice, failed_words

BEAT = 1.0  # seconds between two looks at how far it is
FEWEST = 20  # pictures that tell a pace
WAITING = 0.5  # seconds between two looks at whether it is our turn


class Beat:
    """Writes into the status how many pictures are judged, and how long the others will take."""

    def __init__(self, folder: Path, total: int):
        self.folder, self.total = folder, total
        self.seen = [(count_predicted(folder), time.monotonic())]  # pictures and when they were there

    def __call__(self) -> None:
        done, now = count_predicted(self.folder), time.monotonic()
        if done > self.seen[-1][0]:
            self.seen.append((done, now))
        left = None
        if len(self.seen) > 1:
            # The first part has the loading of the model in it, so it counts only while there is no other.
            start, end = self.seen[1 if len(self.seen) > 2 else 0], self.seen[-1]
            pace = (end[1] - start[1]) / (end[0] - start[0])
            left = max(0.0, pace * (self.total - done) - (now - end[1]))
        change_status(self.folder, None, {"step": min(done, self.total), "eta_s": left})

    def pace(self) -> float | None:
        """Seconds a picture, loading left out; None where too few were counted one after another."""
        start, end = self.seen[min(1, len(self.seen) - 1)], self.seen[-1]
        if end[0] - start[0] < FEWEST:
            return None
        return (end[1] - start[1]) / (end[0] - start[0])


def main(argv: list[str] | None = None) -> int:
    """Do the evaluation of the folder on the command line; returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    job = EvaluationJob(Path(words[0]).resolve()) if len(words) == 1 else None
    if job is None or not job.request:
        print("usage: python -m kpop.evaluation_worker FOLDER", file=sys.stderr)
        return 2
    be_nice()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the server's terminal is not meant for it
    state, error = "failed", None
    try:
        change_status(job.path, None, process_fields())
        _evaluate(job)
        state = "done"
    except KeyboardInterrupt:
        state = "stopped"
    except Exception as problem:
        error = failed_words(job.path, problem)
        print(error, file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end is written, whoever asks meanwhile
    change_status(job.path, None, {"state": state, "error": error, "eta_s": None})
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {state}", flush=True)
    return 0 if state in ("done", "stopped") else 1


def _evaluate(job: EvaluationJob) -> None:
    change_status(job.path, ("starting",), {"state": "queued"})
    with _on_cluster(job) if job.status.runner == "ray" else _our_turn(job):
        if change_status(job.path, ("queued",), {"state": "running"}) is None:
            raise KeyboardInterrupt  # a stop came before it had begun
        args = build_parser().parse_args(job.command_line())
        beat = Beat(job.path, job.status.steps)
        with heartbeat(beat, BEAT):
            args.run_command(args)
        beat()
        if pace := beat.pace():
            told = {"seconds": pace, "model": job.run.config.model, "host": host_name()}
            write_json(job.path / "pace.json", told)  # for the estimate of the next one


@contextmanager
def _our_turn(job: EvaluationJob) -> Iterator[None]:
    """Entered once no other evaluation of the runs folder works on this machine."""
    turn = evaluation_turn(job.runs_dir)
    with heartbeat(lambda: change_status(job.path, None, {"heartbeat": time.time()})):
        turn.acquire(poll_interval=WAITING)
    try:
        yield
    finally:
        turn.release()


@contextmanager
def _on_cluster(job: EvaluationJob) -> Iterator[None]:
    """Nobody waits here: the queue is Ray's. Raises InputError where no cluster answers."""
    from .ray_runner import connect

    os.chdir(job.path)  # a task works where its caller does, and every node sees this folder
    connect()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray took it: a stop would read as a crash
    yield


if __name__ == "__main__":
    sys.exit(main())
