"""What status.json says of a run or an evaluation: its state, the process that works on it, how far it is."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

from .disk import brief, file_stamp, locked, write_json
from .errors import RunError

SCHEMA = 1
STATES = ("queued", "starting", "running", "stopping", "done", "stopped", "failed", "interrupted")
ACTIVE = ("queued", "starting", "running", "stopping")  # "queued" has no process yet
MOST = 1e18  # no number of a status is as large
ENDED = ("done", "stopped", "failed", "interrupted")


@dataclass(frozen=True)
class RunStatus:
    """What status.json holds. Times are seconds since the epoch, eta_s seconds from now."""

    state: str = "queued"
    owner: str = "local"
    # "local": a worker process of jobs.py; "ray": a task of ray_runner.py; "inline": who called train()
    runner: str = "local"
    host: str = ""
    pid: int | None = None
    create_time: float | None = None  # of the process, see `started`: tells a reused pid from ours
    heartbeat: float | None = None
    step: int = 0
    steps: int = 0
    eta_s: float | None = None
    error: str | None = None
    model_hash: str | None = None
    schema: int = SCHEMA
    made: float = 0.0
    device: str = "auto"
    stop_asked: float | None = None
    queued_at: float | None = None
    public: bool = False  # everybody on a shared app may look at it and draw with its key

    @classmethod
    def from_dict(cls, data: object) -> RunStatus:
        """Read untrusted JSON; raises ValueError when it is no status. Unknown keys are ignored."""
        if not isinstance(data, dict) or data.get("state") not in STATES:
            raise ValueError("no status")
        known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        for name in ("owner", "runner", "host", "device"):
            if not isinstance(known.get(name, ""), str):
                raise ValueError(name)
        if not isinstance(known.get("public", False), bool):
            raise ValueError("public")
        needed = ("step", "steps", "made")
        for name in ("pid", "create_time", "heartbeat", "eta_s", "stop_asked", "queued_at", *needed):
            value = known.get(name, 0)
            if value is None and name not in needed:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MOST:
                raise ValueError(name)
        for name in ("pid", "step", "steps"):
            if known.get(name) is not None:
                known[name] = int(known.get(name, 0))
        for name in ("error", "model_hash"):
            if known.get(name) is not None:
                known[name] = str(known[name])
        return cls(**known)


def read_status(folder: Path, fresh: bool = False) -> tuple[RunStatus, str | None]:
    """The status in a folder, and what is wrong with it; a damaged one reads as failed.

    fresh: parse the file even where it looks the same as at the last time.
    """
    parsed = _parsed.__wrapped__ if fresh else _parsed
    try:
        return parsed(folder / "status.json", file_stamp(folder / "status.json")), None
    except FileNotFoundError:
        problem = "Its status.json is missing from the run folder"
    except (OSError, ValueError, TypeError, RecursionError) as error:
        problem = f"Its status.json cannot be read ({brief(error)})"
    try:
        made = folder.stat().st_mtime
    except OSError:
        made = 0.0
    return RunStatus(state="failed", made=made), problem


@lru_cache(maxsize=1024)  # thirty open pages look at every run every two seconds
def _parsed(path: Path, stamp: tuple) -> RunStatus:
    return RunStatus.from_dict(json.loads(path.read_text("utf-8")))


def change_status(folder: Path, states: Sequence[str] | None, changes: dict) -> RunStatus | None:
    """Change fields of a folder's status.json under its lock; the new status.

    states: only if the state is one of them at that moment, else nothing and None. Raises RunError.
    """
    if changes.get("state", "queued") not in STATES:
        raise RunError(f"Unknown state {changes['state']!r}. Use one of: {', '.join(STATES)}.")
    if not folder.is_dir():
        raise RunError(f"{folder} is gone: the run was deleted or moved.")
    with locked(folder / "status.lock"):
        status = read_status(folder, fresh=True)[0]
        if states is not None and status.state not in states:
            return None
        # A stop asked for meanwhile must not be overwritten by the trainer's "running".
        if changes.get("state") in ("starting", "running") and status.state == "stopping":
            changes = {**changes, "state": "stopping"}
        who = (changes.get("pid", status.pid), changes.get("host", status.host))
        if "heartbeat" not in changes and (who == (os.getpid(), host_name()) or "step" in changes):
            changes = {**changes, "heartbeat": time.time()}
        status = replace(status, **changes)
        write_json(folder / "status.json", asdict(status))
        return status


def host_name() -> str:
    """The machine's name: only the same host judges a pid."""
    return socket.gethostname()


def process_fields(pid: int | None = None) -> dict:
    """host, pid, create_time and heartbeat of a process (default: this one) for status.json."""
    import psutil

    pid = pid or os.getpid()
    try:
        created = started(pid)
    except psutil.Error:
        created = None
    return {"host": host_name(), "pid": pid, "create_time": created, "heartbeat": time.time()}


def started(pid: int) -> float:
    """When a process of this host was started; the same number at every look. Raises psutil.Error.

    On Linux in seconds since its boot: there the time since the epoch changes whenever the machine's clock is
    set, and a living process would be taken for dead.
    """
    import psutil

    created = psutil.Process(pid).create_time()
    return created - psutil.boot_time() if psutil.LINUX else created
