"""Starts the real app in a process of its own, as a person would, and waits until its page answers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
START_LIMIT = 180  # seconds; a busy two-core machine imports torch slowly


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def app_command(*flags: str) -> list[str]:
    return [sys.executable, str(REPO / "app.py"), *flags]


@contextmanager
def running_app(folder: Path, *flags: str, env: dict[str, str] | None = None) -> Iterator[str]:
    """Address of the app over `folder`/runs, with caches and temporary files in `folder` too."""
    port = free_port()
    address = f"http://127.0.0.1:{port}/"
    for name in ("cache", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    env = (
        os.environ
        | (env or {})
        | {
            "KPOP_CACHE": os.environ.get("KPOP_CACHE", str(folder / "cache")),
            "GRADIO_TEMP_DIR": str(folder / "tmp"),
            "HF_HUB_OFFLINE": "1",
        }
    )
    output = folder / f"app-{port}.txt"
    with open(output, "wb") as file:
        process = subprocess.Popen(
            app_command("--port", str(port), "--runs", str(folder / "runs"), *flags),
            stdout=file,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=folder,
        )
    try:
        _wait(address, process, output)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _end_trainings(folder / "runs")


def _end_trainings(runs: Path) -> None:
    """Trainings and evaluations outlive the app on purpose; those of a test must not outlive the test."""
    for path in (*runs.glob("*/status.json"), *runs.glob("*/evaluations/*/status.json")):
        status = json.loads(path.read_text())
        if status["state"] in ("starting", "queued", "running", "stopping") and status["pid"]:
            try:
                os.killpg(status["pid"], signal.SIGKILL)
            except ProcessLookupError:
                continue


def _wait(address: str, process: subprocess.Popen, output: Path) -> None:
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end:
        if process.poll() is not None:
            raise AssertionError(f"the app ended with {process.returncode}:\n{output.read_text()}")
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"the app did not open in {START_LIMIT} s:\n{output.read_text()}")
