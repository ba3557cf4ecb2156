"""Thirty visitors on one server while a run trains: how long a look takes, and whether it is up to date.

    python -m benchmarks.load --users 30 --minutes 15 --out docs/benchmarks.md

Every user is a gradio_client of its own. As an open page does, it asks every two seconds what has changed,
and for the parts that have (raw, for these are private); it asks /run_status now and then, and once draws a
picture by /compare. When they are done looking, all ask for a picture at the same moment, while the run still
trains: that is the burst.
An answer is late where it tells an older step than stood in the run folder before it was asked.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import psutil
from gradio_client import Client
from gradio_client.utils import Status

from benchmarks.app_process import running_app
from benchmarks.burst import Burst, burst
from benchmarks.machine import processor
from benchmarks.marked_part import put
from kpop.runs import open_run

EVERY = 2.0  # seconds between two looks of an open page
ASK_EVERY = 5  # looks between two calls of /run_status
EXAMPLE = "example-run"  # ships with the app
COLOURS = ("blue", "green", "red", "yellow", "white")
WARM_UP = 60.0  # seconds before memory counts


@dataclass
class Seen:
    """What all users saw, in seconds and counts."""

    looks: list[float] = field(default_factory=list)
    asks: list[float] = field(default_factory=list)
    late: int = 0
    back: int = 0  # a step lower than one seen before
    errors: list[str] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)  # users, in the order they asked for a picture
    served: list[int] = field(default_factory=list)  # and in the order they got it
    waits: list[float] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)
    turn: threading.Lock = field(default_factory=threading.Lock)  # of asking for a picture


class User(threading.Thread):
    """One visitor with an open page."""

    def __init__(self, number: int, address: str, run, seen: Seen, end: float, compare_at: float):
        super().__init__(name=f"user-{number}", daemon=True)
        self.number, self.run_, self.seen, self.end, self.compare_at = number, run, seen, end, compare_at
        self.address = address
        # A client reads its certificates anew in every call, of http too: 25 ms, on the cores of the server.
        self.client = Client(address, verbose=False, download_files=False, ssl_verify=False)
        config = self.client.config
        self.states = {each["id"] for each in config["components"] if each["type"] == "state"}
        self.events = [(each, target) for each in config["dependencies"] for target in each["targets"]]
        self.timers = [each for each, (_, event) in self.events if event == "tick"]
        self.marks: dict[int, str] = {}  # of the page's parts, by component

    def run(self) -> None:
        try:
            with httpx.Client(timeout=60) as http:
                self._look_until_the_end(http)
        except Exception as error:  # told in the table
            self._failed("the page", error)

    def _look_until_the_end(self, http: httpx.Client) -> None:
        drawing, step, number = None, 0, 0
        while time.monotonic() < self.end:
            began = time.monotonic()
            for timer in self.timers:
                for part in self._changed(timer, self._look(http, timer)):
                    self._look(http, part)
            if number % ASK_EVERY == 0:
                step = self._ask(step)
            if drawing is None and time.monotonic() >= self.compare_at:
                drawing = threading.Thread(target=self._compare, daemon=True)
                drawing.start()
            number += 1
            time.sleep(max(0.0, EVERY - (time.monotonic() - began)))
        if drawing is not None:
            drawing.join(timeout=600)

    def _look(self, http: httpx.Client, event: dict) -> list:
        data = [None if one in self.states else self.run_.id for one in event["inputs"]]
        body = {"data": data, "fn_index": event["id"], "session_hash": self.client.session_hash}
        began = time.perf_counter()
        answer = http.post(f"{self.address}gradio_api/run/predict", json=body)
        with self.seen.guard:
            self.seen.looks.append(time.perf_counter() - began)
        answer.raise_for_status()
        return answer.json()["data"]

    def _changed(self, timer: dict, marks: list) -> list[dict]:
        """The events of the parts whose mark is a new one."""
        told = dict(zip(timer["outputs"], marks, strict=True))
        new = {one for one, mark in told.items() if self.marks.get(one) != mark}
        self.marks |= told
        return [each for each, (one, event) in self.events if event == "change" and one in new]

    def _ask(self, before: int) -> int:
        written = self.run_.status.step
        began = time.perf_counter()
        step = self.client.predict(self.run_.id, api_name="/run_status")["step"]
        with self.seen.guard:
            self.seen.asks.append(time.perf_counter() - began)
            self.seen.late += step < written
            self.seen.back += step < before
        return step

    def submit(self, seed: int):
        """Ask for pictures of a prompt and seed that nobody else asks for; the job."""
        prompt = f"a church on a {COLOURS[self.number % len(COLOURS)]} background"
        return self.client.submit(EXAMPLE, prompt, str(seed), "none", api_name="/compare")

    def _compare(self) -> None:
        began = time.perf_counter()
        with self.seen.turn:  # one is in the queue before the next one asks, so that there is an order
            self.seen.asked.append(self.number)
            job = self.submit(self.number)
            while job.status().code == Status.STARTING:
                time.sleep(0.01)
        try:
            job.result(timeout=600)
        except Exception as error:
            return self._failed("/compare", error)
        with self.seen.guard:
            self.seen.served.append(self.number)
            self.seen.waits.append(time.perf_counter() - began)

    def _failed(self, what: str, error: Exception) -> None:
        with self.seen.guard:
            self.seen.errors.append(f"{what} of user {self.number}: {type(error).__name__}: {error}"[:200])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--steps", type=int, default=3000, help="of the run that trains meanwhile")
    parser.add_argument("--out", type=Path, help="markdown file whose marked part is replaced")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_app(Path(folder)) as address:
        put(measure(asked, address, Path(folder)), "load", asked.out)


def measure(asked: argparse.Namespace, address: str, folder: Path) -> str:
    """Let the users loose on the server; a table of what they saw."""
    first = Client(address, verbose=False)
    told = first.predict(concepts=["church"], steps=asked.steps, api_name="/start_run")
    run = open_run(folder / "runs" / told["run"])
    server = server_of(folder)
    while run.status.state in ("queued", "starting"):
        time.sleep(0.5)
    print(f"{asked.users} users for {asked.minutes:g} minutes ...", file=sys.stderr, flush=True)
    seen, start = Seen(), time.monotonic()
    end, step = start + 60 * asked.minutes, run.status.step
    span = 60 * asked.minutes / 2 / asked.users  # all have asked for a picture by half time
    users = [User(i, address, run, seen, end, start + span * (i + 1)) for i in range(asked.users)]
    for user in users:
        user.start()
    memory = []
    while time.monotonic() < end:
        memory.append((time.monotonic() - start, server.memory_info().rss))
        time.sleep(2.0)
    for user in users:
        user.join(timeout=660)
    at_once = burst([partial(user.submit, 1000 + user.number) for user in users])
    first.predict(run.id, api_name="/stop_run")
    return table(asked, seen, memory, run.status.step - step, at_once)


def server_of(folder: Path) -> psutil.Process:
    """The app that was started over the folder."""
    runs = str(folder / "runs")
    return next(
        process
        for process in psutil.Process().children()
        if runs in process.cmdline() and any(word.endswith("app.py") for word in process.cmdline())
    )


def table(
    asked: argparse.Namespace, seen: Seen, memory: list[tuple[float, int]], steps: int, at_once: Burst
) -> str:
    late = 60 * asked.minutes - WARM_UP
    held = [rss / 2**20 for at, rss in memory if WARM_UP <= at <= 2 * WARM_UP] or [memory[0][1] / 2**20]
    last = [rss / 2**20 for at, rss in memory if at >= late] or [memory[-1][1] / 2**20]
    in_order = seen.served == seen.asked
    rows = [
        ("looks of the page (every 2 s, and what has changed)", times(seen.looks)),
        ("/run_status", times(seen.asks)),
        ("pictures by /compare", times(seen.waits)),
    ]
    lines = [
        f"    python -m benchmarks.load {shlex.join(sys.argv[1:])}",
        "",
        f"emoji; {processor()}, {len(os.sched_getaffinity(0))} cores; the run made {steps} steps meanwhile.",
        "",
        "| what | times | median | 95th percentile | longest |",
        "|---|---:|---:|---:|---:|",
        *(f"| {name} | {row} |" for name, row in rows),
        "",
        f"Answers older than the run folder: {seen.late}; steps that went back: {seen.back}; errors: "
        f"{len(seen.errors)}. Pictures served in the order asked: {'yes' if in_order else 'no'} "
        f"({len(seen.served)} of {len(seen.asked)}). Memory of the server, resident: "
        f"{statistics.median(held):.0f} MB in minute two, {statistics.median(last):.0f} MB in the last; "
        f"{by_minute(memory)}.",
        "",
        at_once.told(),
    ]
    return "\n".join([*lines, *(f"- {error}" for error in (*seen.errors[:5], *at_once.errors[:5]))])


def by_minute(memory: list[tuple[float, int]]) -> str:
    """Median of each minute in MB, and how much it grows a minute after the first (least squares)."""
    minutes: dict[int, list[float]] = {}
    for at, rss in memory:
        minutes.setdefault(int(at // 60), []).append(rss / 2**20)
    held = {minute: statistics.median(values) for minute, values in minutes.items()}
    told = "by minute " + ", ".join(f"{each:.0f}" for each in held.values())
    later = {minute: each for minute, each in held.items() if minute > 0}
    if len(later) < 2:
        return told
    slope = statistics.linear_regression(list(later), list(later.values())).slope
    return f"{told}, a slope of {slope:+.2f} MB a minute after the first"


def times(seconds: list[float]) -> str:
    """count | median | 95th percentile | longest."""
    if not seconds:
        return "0 | - | - | -"
    ordered = sorted(seconds)
    high = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"{len(ordered)} | {_said(statistics.median(ordered))} | {_said(high)} | {_said(ordered[-1])}"


def _said(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


if __name__ == "__main__":
    main()
