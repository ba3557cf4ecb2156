"""What status.json says of a run: its state, the process that runs it, and how far it is."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, fields

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
    runner: str = "local"  # "local": a worker process of jobs.py; "inline": the process that called train()
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

    @classmethod
    def from_dict(cls, data: object) -> RunStatus:
        """Read untrusted JSON; raises ValueError when it is no status. Unknown keys are ignored."""
        if not isinstance(data, dict) or data.get("state") not in STATES:
            raise ValueError("no status")
        known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        for name in ("owner", "runner", "host", "device"):
            if not isinstance(known.get(name, ""), str):
                raise ValueError(name)
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
