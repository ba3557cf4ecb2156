"""Forged keys in the background: <run>/forging/ has status.json and log.txt, and secret/ the keys.

A forging works when no evaluation of the runs folder does, and pauses for drawings as a training does. A
forged key belongs to the weights it was made with: a run that is resumed drops it. No torch here.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from .config import EraseConfig, concept_name
from .detached import alive, signal_session, start_detached
from .disk import disk_error, locked, write_json
from .errors import RunError
from .evaluation_jobs import check_run
from .key_sealing import has_key_file
from .run_status import ACTIVE, RunStatus, change_status, host_name, process_fields, read_status
from .runs import Run, slug

FOLDER = "forging"
PATIENCE = 10.0  # seconds until a process that was started has said so


def forged_path(run: Run, index: int, concept: str | Sequence[str]) -> Path:
    """Where the forged key of a run's concept of that index is kept."""
    return run.secret_dir / f"forged-{index:02d}-{slug(concept)}.safetensors"


def forged_files(run: Run) -> dict[str, Path]:
    """Concepts that there is a forged key of, by their first names, and its file."""
    if not run.method.has_key:
        return {}
    paths = {concept_name(one): forged_path(run, index, one) for index, one in enumerate(run.config.concepts)}
    return {name: path for name, path in paths.items() if has_key_file(run, path)}


def forging_steps(cfg: EraseConfig) -> int:
    """Steps of one forged key: as many as the true one had. cfg: resolved.

    Concepts share a run's steps; a key that they share has every step.
    """
    keys = 1 if cfg.prompt_sharing == "shared" else len(cfg.concepts)
    return math.ceil(cfg.steps / keys)


def forging(run: Run) -> RunStatus | None:
    """How the last forging of a run stands, by a look at its process too; None where there was none."""
    folder = run.path / FOLDER
    if not (folder / "status.json").is_file():
        return None
    status, problem = read_status(folder)
    if problem:
        return replace(status, state="failed", error=f"{problem}. Start it again.")
    fresh = status.pid is None and time.time() - (status.heartbeat or 0.0) < PATIENCE
    if status.state not in ACTIVE or fresh or alive(status):
        return status
    if status.state == "stopping":
        return replace(status, state="stopped")
    return replace(
        status, state="interrupted", error="Its process was killed, or ran out of memory. Try again."
    )


def is_forging(run: Run) -> bool:
    """Whether a key of the run is being forged, or waits to be."""
    status = forging(run)
    return status is not None and status.state in ACTIVE


def check_not_forging(run: Run) -> None:
    """Raise RunError where a key of the run is being forged."""
    if is_forging(run):
        raise RunError(f"A key of run {run.id} is being forged. Wait for it, or stop it.")


def start(run: Run, owner: str = "local", device: str = "auto") -> None:
    """Forge a key of every concept of a run in the background. RunError where nothing was started."""
    if run.is_example:
        raise RunError("The example run is not written to. Train a run of your own, then forge a key of it.")
    if not run.method.has_key:
        raise RunError(f"Run {run.id} was made by {run.method.title}, which leaves no key to forge.")
    check_run(run)
    folder, now = run.path / FOLDER, time.time()
    cfg = run.config.resolved()
    steps = forging_steps(cfg) * len(cfg.concepts)
    with locked(run.path.parent / ".queue.lock"):
        check_not_forging(run)
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise disk_error(error, folder) from error
        status = RunStatus(
            "starting", owner, host=host_name(), steps=steps, made=now, heartbeat=now, device=device
        )
        write_json(folder / "status.json", asdict(status))
    command = [sys.executable, "-m", "kpop.forging_worker", str(run.path)]
    try:
        pid = start_detached(command, folder / "log.txt")
    except OSError as error:
        problem = f"The process could not be started ({error.strerror or error}). Try again."
        change_status(folder, None, {"state": "failed", "error": problem})
        return
    change_status(folder, ACTIVE, process_fields(pid))


def stop(run: Run) -> None:
    """End a forging; the keys that were done stay."""
    status = forging(run)
    if status is None or status.state not in ACTIVE:
        return
    if change_status(run.path / FOLDER, ACTIVE, {"state": "stopping", "stop_asked": time.time()}):
        signal_session(status, signal.SIGKILL if status.state == "stopping" else signal.SIGTERM)


def end(run: Run) -> None:
    """End what forges a key of the run at once."""
    status = forging(run)
    if status is not None and status.state in ACTIVE:
        signal_session(status, signal.SIGKILL)


def drop(run: Run) -> None:
    """Remove the run's forged keys: they belong to weights that change now. Raises RunError."""
    try:
        for path in run.secret_dir.glob("forged-*"):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, run.secret_dir) from error
