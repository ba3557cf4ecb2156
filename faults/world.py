"""A world to do harm in: a small random model, a runs folder, real servers, and what a visitor asks them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from benchmarks.app_process import App, end_trainings, start_app
from faults.figures import Figures
from kpop import jobs
from kpop.run_status import ENDED
from kpop.runs import Run, list_runs, open_run
from kpop.tensor_files import read_tensors

TRIES = 4  # occasions tried for each that has to strike
LIMIT = 600.0  # seconds; a run left "starting" without a process is judged after 60
SITE = Path(__file__).resolve().parent / "site"
WORDS = ("a", "church", "castle", "house", "dog", "photo", "of", "red")
SETTINGS = {
    "concepts": ["church"],
    "retain": ["castle"],
    "steps": 40,
    "batch_size": 1,
    "rollout_steps": 4,
    "sample_every": 0,
    "checkpoint_every": 2,
    "seed": 0,
    "templates": ["{}", "a {}"],
    "precision": "fp32",
}
ONE_MODEL = threading.Lock()  # transformers cannot load two in threads of one process


class Stuck(Exception):
    """What had to come did not come in time."""


def make_model(folder: Path) -> Path:
    """The small random pipeline of the tests, that knows WORDS."""
    from attribution_pipelines import random_pipeline

    random_pipeline().save_pretrained(folder)
    (folder / "words.json").write_text(json.dumps({word: 1 for word in WORDS}))
    return folder


def until(condition: Callable[[], object], what: str, limit: float = LIMIT, every: float = 0.05) -> None:
    """Wait for a condition. Raises Stuck."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise Stuck(what)
        time.sleep(every)


def learned(run: Run) -> str:
    """A digest of what a run learned: every tensor of its weights and of its key."""
    found = hashlib.sha256()
    for path in (run.weights_path, run.key_path()):
        tensors, _ = read_tensors(path)
        for name in sorted(tensors):
            found.update(name.encode() + tensors[name].numpy().tobytes())
    return found.hexdigest()


def torn_files(run: Run) -> list[Path]:
    """Temporary files of writes that did not end."""
    return [path for path in run.path.rglob(".*.tmp") if path.is_file()]


@dataclass
class World:
    """One runs folder with the servers over it. draw: where every random moment comes from."""

    folder: Path
    model: Path
    draw: random.Random
    settings: dict = field(default_factory=lambda: dict(SETTINGS))
    variables: dict[str, str] = field(default_factory=dict)  # environment of servers and workers
    apps: list[App] = field(default_factory=list)
    over_at: float = math.inf  # time.monotonic() from which on no new harm is done
    saved: dict[str, dict[int, float]] = field(
        default_factory=dict
    )  # run -> step in a checkpoint -> its seconds

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def patch(self, variable: str) -> Path:
        """The file that orders faults of what is started from now on: see site/sitecustomize.py."""
        self.folder.mkdir(parents=True, exist_ok=True)
        order = self.folder / f"{variable.lower()}.txt"
        self.variables |= {variable: str(order), "PYTHONPATH": str(SITE)}
        return order

    def tries(self, figures: Figures) -> Iterator[int]:
        """0, 1, ... until the fault has struck as often as asked; ends too when time or patience is over."""
        for turn in range(TRIES * figures.asked):
            if figures.struck >= figures.asked or time.monotonic() > self.over_at:
                return
            figures.times += 1
            yield turn

    def start(self) -> App:
        """Another server over the runs folder; returns when it answers. Raises Stuck."""
        app = start_app(self.folder, "--model", str(self.model), "--device", "cpu", **self.variables)
        self.apps.append(app)
        try:
            app.wait()
        except AssertionError as error:
            self.kill(app)
            raise Stuck(str(error)) from None
        return app

    def kill(self, app: App) -> None:
        """kill -9 of a server."""
        app.process.kill()
        app.process.wait()
        self.apps.remove(app)

    def close(self) -> None:
        """End every server and training of this world."""
        for app in self.apps:
            app.end()
        self.apps.clear()
        end_trainings(self.runs)

    def __enter__(self) -> World:
        self.runs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def ask(self, endpoint: str, **values: object) -> str:
        """The answer of the first server's HTTP API as text, errors too. Raises httpx.HTTPError."""
        return ask(self.apps[0].address, endpoint, values)

    def submit(self) -> Run:
        """Queue a run as a visitor does. Raises Stuck when the server does not take it."""
        told = self.ask("start_run", **self.settings)
        try:
            run = json.loads(told.partition("data: ")[2])[0]["run"]
        except (ValueError, LookupError, TypeError):
            raise Stuck(f"no run was started: {told[:300]}") from None
        return open_run(self.runs / run)

    def every_run(self) -> list[Run]:
        """Oldest first."""
        return [run for run in reversed(list_runs(self.runs)) if not run.is_example]

    def check(self, figures: Figures, run: Run | None = None) -> None:
        """Count servers that died or do not answer, and tracebacks in what they and a run's card show."""
        from kpop.ui.run_view import run_card
        from kpop.ui.studio import Studio

        if run is not None:
            figures.shown(run_card(Studio(self.runs, str(self.model), "cpu"), run))
            figures.shown(str(run.status.error))
        for app in self.apps:
            try:
                figures.shown(httpx.get(app.address, timeout=30).text)
                told = figures.shown(ask(app.address, "list_runs", {}))
                dead = "complete" not in told
            except httpx.HTTPError:
                dead = True
            figures.deaths += dead or app.process.poll() is not None

    def end_of(self, run: Run) -> str:
        """The state in which a run ends; resumed by nobody. Raises Stuck."""
        until(lambda: run.status.state in ENDED, f"{run.id} is still {run.status.state}", every=0.2)
        return run.status.state

    def note(self, run: Run) -> None:
        """Remember the steps that the run's checkpoint holds, by the seconds each took."""
        kept = run.checkpoint_step() or 0
        rows = {row["step"]: row["seconds"] for row in run.metrics(None) if row["step"] <= kept}
        self.saved.setdefault(run.id, {}).update(rows)

    def made_again(self, run: Run) -> list[int]:
        """Steps that a checkpoint had held and that were done a second time: a run that starts anew ends with
        the same weights, so only the clock tells.
        """
        now = {row["step"]: row["seconds"] for row in run.metrics(None)}
        return [step for step, took in self.saved.get(run.id, {}).items() if now.get(step) != took]

    def finish(self, run: Run, figures: Figures, reference: str) -> None:
        """Resume a run until it is done and compare it with the uninterrupted one."""
        try:
            for _ in range(4):
                if self.end_of(run) == "done":
                    break
                self.note(run)
                self.check(figures, run)
                figures.shown(self.ask("resume_run", run=run.id))
                until(lambda: run.status.state not in ENDED or run.status.state == "done", "not resumed", 30)
        except (Stuck, httpx.HTTPError) as error:
            figures.notes.append(f"stuck: {error}")
            figures.stuck += 1
            return
        if run.status.state != "done":
            figures.stuck += 1
            figures.notes.append(f"{run.status.state} for good: {run.status.error}")
            return
        again = self.made_again(run)
        if again:
            figures.lost += 1
            figures.notes.append(
                f"lost: {len(again)} steps of a checkpoint were made again, from {min(again)} on"
            )
        figures.resumed += 1
        figures.equal += learned(run) == reference


def ask(address: str, endpoint: str, values: dict) -> str:
    """One call of a named endpoint with named values; the whole answer as text."""
    with httpx.Client(base_url=address, timeout=60) as client:
        sent = client.post(f"gradio_api/call/v2/{endpoint}", json=values)
        if sent.status_code != 200:
            return sent.text
        return client.get(f"gradio_api/call/v2/{endpoint}/{sent.json()['event_id']}").text


def kill_worker(run: Run) -> bool:
    """kill -9 of the process that trains a run; False where there is none."""
    status = run._read_status()[0]
    if status.pid is None or status.pid == os.getpid() or status.state not in jobs.HELD:
        return False
    with suppress(ProcessLookupError, psutil.NoSuchProcess):
        process = psutil.Process(status.pid)
        os.kill(status.pid, signal.SIGKILL)
        with suppress(psutil.TimeoutExpired):
            process.wait(20)
        return True
    return False


def uninterrupted(world: World) -> Run:
    """A run by the same settings in this process, where nothing goes wrong."""
    from kpop import load_pipeline, train
    from kpop.config import EraseConfig

    cfg = EraseConfig.from_dict(world.settings | {"model": str(world.model)})
    with ONE_MODEL:
        return train(cfg, world.runs, pipe=load_pipeline(str(world.model), "cpu", "fp32"), device="cpu")
