"""What `runs` and `train --runner ray` do, and where a command finds its runs."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from . import jobs, key_sealing, runs
from .command_output import progress_bar
from .config import EraseConfig, concept_name
from .errors import InputError
from .interrupts import interrupts
from .run_status import ENDED
from .runs import Run


def runs_dir(args: argparse.Namespace) -> Path:
    """--runs, or where runs are kept by default."""
    return Path(args.runs).expanduser() if args.runs else runs.default_runs_dir()


def named_run(args: argparse.Namespace) -> Run:
    """The run whose id or folder was given. Raises InputError, RunError."""
    return runs.open_run(args.run, runs_dir(args))


def train_on_cluster(cfg: EraseConfig, args: argparse.Namespace) -> int:
    """Queue a run for the Ray cluster and follow it; its folder is the last line. Ctrl-C saves and stops it.

    Returns 0, 1 where it failed, 130 after Ctrl-C. Raises InputError where no cluster answers.
    """
    from .ray_runner import check_cluster

    if args.track:
        raise InputError("--track does not reach a Ray cluster. Its curves are in the run's metrics.jsonl.")
    check_cluster()
    run = jobs.submit(cfg, runs_dir(args), device=args.device, runner="ray")
    print(f"{run.id}: {', '.join(map(concept_name, run.config.concepts))}", file=sys.stderr)
    try:
        with interrupts() as interrupted, progress_bar("step", run.config.steps) as show:
            while run.status.state not in ENDED:
                if interrupted.is_set() and run.status.stop_asked is None:
                    jobs.stop(run)
                    print("\nAsked to save and stop. Ctrl-C again does not wait for it.", file=sys.stderr)
                show(run.status.step, run.status.steps)
                jobs.start_next(run.path.parent, "ray")
                jobs.reconcile(run.path.parent)
                time.sleep(0.5)
            show(run.status.step, run.status.steps)
    finally:
        print(run.path)
    status = run.status
    if status.error:
        print(f"kpop: {' '.join(status.error.split())}", file=sys.stderr)
    return 0 if status.state == "done" else 130 if interrupted.is_set() else 1


def on_cluster(function: Callable[[argparse.Namespace, str], str], args: argparse.Namespace) -> None:
    """A command as a task of a Ray cluster: function(args, device) there; what it returns is printed here."""
    from .ray_runner import elsewhere

    with progress_bar("task", 1) as show:
        found = elsewhere(function, [(portable(args),)], args.device, show)
    print(*found, sep="", end="")


def portable(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments for another machine: with this one's runs folder, without what cannot be sent."""
    values = vars(args) | {"runs": str(runs_dir(args).resolve())}
    del values["run_command"]
    return argparse.Namespace(**values)


def runs_list(args: argparse.Namespace) -> None:
    """A line a run."""
    jobs.reconcile(runs_dir(args))
    rows = []
    for run in runs.list_runs(runs_dir(args)):
        status = run.status
        rows.append({
            "id": run.id, "state": status.state, "step": status.step, "steps": status.steps,
            "made": status.made,
            "concepts": [concept_name(concept) for concept in run.config.concepts], "error": status.error,
            "path": str(run.path),
        })  # fmt: skip
    if args.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not rows:
        print(f"No runs in {runs_dir(args)}. Start one with `python -m kpop train`.", file=sys.stderr)
    wide = max((len(row["id"]) for row in rows), default=0)
    for row in rows:
        made = datetime.fromtimestamp(row["made"]).strftime("%Y-%m-%d %H:%M") if row["made"] else ""
        steps = f"{row['step']}/{row['steps']}"
        print(
            f"{row['id']:<{wide}}  {row['state']:<11}  {steps:>11}  {made:<16}  {', '.join(row['concepts'])}"
        )


def runs_show(args: argparse.Namespace) -> None:
    """Settings, state and the newest metrics as JSON."""
    run = named_run(args)
    rows = run.metrics(max_points=2)
    print(json.dumps({
        "id": run.id, "path": str(run.path), "status": asdict(run.status), "config": run.config.to_dict(),
        "checkpoint_step": run.checkpoint_step(), "queue_position": jobs.queue_position(run),
        "last_metrics": rows[-1] if rows else None,
    }, indent=2, ensure_ascii=False))  # fmt: skip


def runs_stop(args: argparse.Namespace) -> None:
    """Ask, then wait until it has stopped."""
    run = named_run(args)
    jobs.stop(run)
    while not args.no_wait and run.status.state in jobs.HELD:
        time.sleep(0.5)
        jobs.reconcile(run.path.parent)
    status = run.status
    print(f"{run.id}: {status.state} at step {status.step} of {status.steps}")


def runs_resume(args: argparse.Namespace) -> None:
    """Queue it again; it trains in the background."""
    run = named_run(args)
    if key_sealing.is_sealed(run) and run.status.state in ("stopped", "failed", "interrupted"):
        jobs.check_not_needed(run, "resumed")  # or the key would be opened for nothing
        from .release_commands import passphrase

        # The worker writes a checkpoint of the key as it goes, so it lies open until it is sealed again.
        key_sealing.open_seal(run, passphrase(args))
        print(f"Its key is open while it trains. Seal it again: python -m kpop key seal {run.id}")
    print(f"{run.id}: {jobs.resume(run, args.device, args.runner)}")
    ahead = jobs.queue_position(run)
    if ahead:
        print(f"It waits for {ahead} other run{'' if ahead == 1 else 's'}.")


def runs_publish(args: argparse.Namespace) -> None:
    """Let every visitor of a shared app look at it and draw with its key; --undo takes that back."""
    run = named_run(args)
    if not run.is_example:
        run.update_status(public=not args.undo)
    sees = "only who started it sees it" if args.undo else "every visitor sees it and may draw with its key"
    print(f"{run.id}: on a shared app {sees}.")


def runs_delete(args: argparse.Namespace) -> None:
    """Remove the folder; names what else holds a copy of its key."""
    run = named_run(args)
    holders = key_sealing.copies(run, runs.list_runs(run.path.parent))
    jobs.delete(run)
    print(f"{run.id}: deleted")
    for other in holders:
        print(f"{other.id} went on from it and holds a copy of its key.", file=sys.stderr)
