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
from dataclasses import dataclass
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
def running_app(folder: Path, *flags: str, **variables: str) -> Iterator[str]:
    """Address of the app over `folder`/runs, with caches and temporary files in `folder` too."""
    app = start_app(folder, *flags, **variables)
    try:
        app.wait()
        yield app.address
    finally:
        app.end()
        end_trainings(folder / "runs")


@dataclass(frozen=True)
class App:
    """A started app: its process, where it answers, and the file that holds what it printed."""

    process: subprocess.Popen
    address: str
    output: Path

    def wait(self) -> None:
        """Return once the page answers. AssertionError when the app ends or takes too long."""
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end:
            if self.process.poll() is not None:
                told = f"the app ended with {self.process.returncode}:\n{self.output.read_text()}"
                raise AssertionError(told)
            try:
                with urllib.request.urlopen(self.address, timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.3)
        raise AssertionError(f"the app did not open in {START_LIMIT} s:\n{self.output.read_text()}")

    def end(self) -> None:
        """SIGTERM, and SIGKILL where that does not help."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_app(folder: Path, *flags: str, port: int | None = None, **variables: str) -> App:
    """Start the app over `folder`/runs; `variables` go into its environment and its workers'."""
    port = port or free_port()
    for name in ("cache", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    env = os.environ | {
        "KPOP_CACHE": os.environ.get("KPOP_CACHE", str(folder / "cache")),
        "GRADIO_TEMP_DIR": str(folder / "tmp"),
        "HF_HUB_OFFLINE": "1",
    }
    output = folder / f"app-{port}.txt"
    with open(output, "wb") as file:
        process = subprocess.Popen(
            app_command("--port", str(port), "--runs", str(folder / "runs"), *flags),
            stdout=file,
            stderr=subprocess.STDOUT,
            env=env | variables,
            cwd=folder,
        )
    return App(process, f"http://127.0.0.1:{port}/", output)


def end_trainings(runs: Path) -> None:
    """Trainings and evaluations outlive the app on purpose; those of a test must not outlive the test."""
    for path in (*runs.glob("*/status.json"), *runs.glob("*/evaluations/*/status.json")):
        status = json.loads(path.read_text())
        if status["state"] in ("starting", "queued", "running", "stopping") and status["pid"]:
            try:
                os.killpg(status["pid"], signal.SIGKILL)
            except ProcessLookupError:
                continue
