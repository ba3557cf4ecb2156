"""Evaluations in the background: the command `evaluate` as a detached process, a folder each.

<run>/evaluations/<name>/  request.json  status.json  pace.json  log.txt, and what `evaluate --out` writes

Those of the example, which ships with the app, are in <runs>/.example-run/evaluations. While they are
counted and one starts, <runs>/.evaluations.lock is held.

The folder is the truth, so a page or a server may come and go. One evaluation of a runs folder works at a
time; the others wait for it, but for those that a Ray cluster does, whose queue is Ray's. What was broken off
goes on from its predictions.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .detached import alive, signal_session, start_detached
from .disk import disk_error, hidden_folder, locked, write_json
from .errors import InputError, RunError
from .evaluation.lines import Line
from .evaluation_plan import Ask, command_line, plan_of
from .key_sealing import check_open
from .limits import UNLIMITED, Limits
from .run_records import log_tail
from .run_status import ACTIVE, ENDED, RunStatus, change_status, host_name, process_fields, read_status
from .runs import EXAMPLE, Run, default_runs_dir

BESIDE = f".{EXAMPLE.name}"  # in a runs folder; the dot keeps it out of the list of runs
NAME = re.compile(r"(objects|sensitive|style|csv)-\d{8}-\d{6}-[0-9a-f]{4}")
PATIENCE = 10.0  # seconds after which a second wish to stop ends the process at once
REPORTS = (
    "report.md", "metrics.json", "predictions.csv", "settings.json",
    "detection.png", "detection.svg", "figures.png", "figures.svg",
)  # fmt: skip


@dataclass(frozen=True)
class EvaluationJob:
    """One folder of an evaluation. Reading it never changes it; every property but `request` looks again."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def run(self) -> Run:
        folder = self.path.parent.parent
        return Run(EXAMPLE) if folder.name == BESIDE else Run(folder)

    @property
    def runs_dir(self) -> Path:
        """The runs folder it belongs to, also where the run itself ships with the app."""
        return self.path.parent.parent.parent

    @cached_property
    def request(self) -> dict[str, Any]:
        """What was asked for; {} where request.json is damaged."""
        try:
            data = json.loads((self.path / "request.json").read_text("utf-8"))
            Ask(data["protocol"], tuple(data["words"]), data["pictures"], data.get("seeds", ""))
            [Line.from_dict(line) for line in data["lines"]]
            return data
        except (OSError, ValueError, TypeError, KeyError, RecursionError, InputError):
            return {}

    @property
    def lines(self) -> list[Line]:
        """What its table counts."""
        return [Line.from_dict(line) for line in self.request.get("lines", ())]

    @property
    def status(self) -> RunStatus:
        """The status now: one whose process died reads as interrupted, or as stopped where that was asked."""
        status, problem = read_status(self.path)
        if problem or not self.request:
            return replace(
                status, state="failed", error=f"{problem or 'Its request.json is damaged'}. Start a new one."
            )
        if status.state not in ACTIVE or alive(status):
            return status
        if status.pid is None and time.time() - (status.heartbeat or 0.0) < PATIENCE:
            return status  # its process is about to be started
        if status.state == "stopping":
            return replace(status, state="stopped", eta_s=None)
        error = "Its process was killed, or ran out of memory. What it measured is kept: resume it."
        return replace(status, state="interrupted", error=error, eta_s=None)

    def log_tail(self, n: int = 20) -> str:
        """The last n lines of its log; "" where there is none."""
        return log_tail(self.path, n)

    @property
    def has_report(self) -> bool:
        return (self.path / "report.md").is_file()

    def command_line(self) -> list[str]:
        """The words of `python -m kpop` that do the work."""
        return [*command_line(self.run, self.request, self.path), "--runner", self.status.runner]


def start(
    run: Run,
    ask: Ask,
    prompts: str | Path | None = None,
    device: str = "auto",
    owner: str = "local",
    pipe=None,
    runs_dir: str | Path | None = None,
    limits: Limits = UNLIMITED,
    runner: str = "local",
) -> EvaluationJob:
    """Check everything, make the folder and start the process.

    prompts: a CSV for `csv` (and `sensitive`, where the model has no own prompts), copied. pipe: the run's
    model, to check the words with. runs_dir: as in `list_evaluations`. limits: of `owner`. runner: "local",
    or "ray", where the process hands the work to a cluster. Raises KpopError with one sentence, and then
    nothing was started.
    """
    check_run(run)
    check_idle(run, runs_dir)
    folder, now = evaluations_folder(run, runs_dir), time.time()
    request = {**asdict(ask), "words": list(ask.words), "device": device, "prompts": None}
    with hidden_folder(folder) as made:
        if prompts is not None:
            request["prompts"] = Path(prompts).name[-80:]
            shutil.copyfile(prompts, made / "prompts.csv")
        lines, total = plan_of(run, request, made, pipe)
        limits.check_judged(total)
        request |= {"lines": [line.to_dict() for line in lines], "variants": list(run.method.variants)}
        write_json(made / "request.json", request)
        status = RunStatus(
            "starting", owner, runner, host=host_name(), steps=total, made=now, heartbeat=now, device=device
        )
        write_json(made / "status.json", asdict(status))
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
        place = folder / f"{ask.protocol}-{stamp}-{secrets.token_hex(2)}"
        with _counted(place.parent.parent.parent, owner, limits):
            os.rename(made, place)
    job = EvaluationJob(place)
    _start(job)
    return job


@contextmanager
def _counted(runs_dir: Path, owner: str, limits: Limits) -> Iterator[None]:
    """Nobody else starts an evaluation in the block. Raises RunError where one more is beyond the limits."""
    with locked(runs_dir / ".evaluations.lock"):
        owners = [job.status.owner for job in going_on(runs_dir)]
        limits.check_evaluations(owners.count(owner), len(owners))
        yield


def going_on(runs_dir: str | Path) -> list[EvaluationJob]:
    """Every evaluation in a runs folder that waits or works, those of the example too."""
    found = [path for path in Path(runs_dir).glob("*/evaluations/*") if NAME.fullmatch(path.name)]
    return [job for job in map(EvaluationJob, found) if job.status.state in ACTIVE]


def evaluations_folder(run: Run, runs_dir: str | Path | None = None) -> Path:
    """Where the evaluations of a run are. runs_dir: as in `list_evaluations`."""
    if run.is_example:
        return Path(runs_dir or default_runs_dir()).resolve() / BESIDE / "evaluations"
    return run.path / "evaluations"


def check_idle(run: Run, runs_dir: str | Path | None = None) -> None:
    """Raise RunError where an evaluation of the run is going on."""
    if any(job.status.state in ACTIVE for job in list_evaluations(run, runs_dir)):
        raise RunError(f"An evaluation of run {run.id} is going on. Wait for it, or stop it.")


def end_all(run: Run) -> None:
    """End what evaluates a run at once."""
    for job in list_evaluations(run):
        if job.status.state in ACTIVE:
            signal_session(job.status, signal.SIGKILL)


def check_run(run: Run) -> None:
    """Raise KpopError, in a sentence, where nothing of the run can be evaluated now."""
    if run.damage:
        raise RunError(run.damage)
    if run.status.state in ACTIVE:
        raise RunError(f"Run {run.id} is {run.status.state}. Wait until it is done, or stop and keep it.")
    if not run.has_result:
        raise RunError(f"Run {run.id} has learned nothing yet. Resume it, or choose another run.")
    if run.method.has_key:
        check_open(run)


def _start(job: EvaluationJob) -> None:
    try:
        pid = start_detached(worker_command(job), job.path / "log.txt")
    except OSError as error:
        problem = f"The process could not be started ({error.strerror or error}). Try again."
        change_status(job.path, None, {"state": "failed", "error": problem})
        return
    # The worker writes the same of itself; this covers the time until it does.
    change_status(job.path, ACTIVE, process_fields(pid))


def worker_command(job: EvaluationJob) -> list[str]:
    """What does an evaluation: see evaluation_worker.py."""
    return [sys.executable, "-m", "kpop.evaluation_worker", str(job.path)]


def stop(job: EvaluationJob) -> None:
    """Ask an evaluation to end after what it draws now; asked again after 10 seconds, it is ended at once."""
    before = job.status
    if before.state not in ACTIVE:
        return
    if before.state == "stopping":
        if time.time() - (before.stop_asked or 0.0) > PATIENCE:
            signal_session(before, signal.SIGKILL)
        return
    if change_status(job.path, ACTIVE, {"state": "stopping", "stop_asked": time.time()}):
        signal_session(before, signal.SIGTERM)


def resume(job: EvaluationJob, pipe=None, limits: Limits = UNLIMITED, runner: str | None = None) -> None:
    """Go on with a stopped, failed or interrupted evaluation. limits: of its owner. runner: None: as before.

    Raises KpopError in any other state, and beyond the limits.
    """
    state = job.status.state
    if state == "done":
        raise RunError("This evaluation is finished. Start a new one.")
    if state not in ENDED:
        raise RunError(f"This evaluation is {state}: there is nothing to resume.")
    if not job.request:
        raise RunError(job.status.error)
    check_run(job.run)
    _check_weights(job)
    lines, total = plan_of(job.run, job.request, job.path, pipe)
    limits.check_judged(total)
    change_status(job.path, None, {"state": state})  # of a dead process it may still say "stopping"
    fresh = dict.fromkeys(("error", "eta_s", "pid", "create_time", "stop_asked"))
    fresh |= {"state": "starting", "heartbeat": time.time(), "host": host_name(), "steps": total}
    fresh |= {"runner": runner} if runner else {}
    with _counted(job.runs_dir, job.status.owner, limits):
        ours = change_status(job.path, ENDED, fresh)
    if ours:
        # An earlier version of the program may have planned it otherwise.
        write_json(job.path / "request.json", {**job.request, "lines": [line.to_dict() for line in lines]})
        _start(job)


def _check_weights(job: EvaluationJob) -> None:
    try:
        before = json.loads((job.path / "settings.json").read_text("utf-8")).get("weights")
    except (OSError, ValueError, AttributeError):
        return
    if before is not None and before != job.run.weights_stamp():
        raise RunError("The run was trained further since then. Start a new evaluation.")


def delete(job: EvaluationJob) -> None:
    """Remove an ended evaluation with its report. Raises RunError while it works."""
    state = job.status.state
    if state not in ENDED:
        raise RunError(f"This evaluation is {state}. Stop it first, then delete it.")
    # Out of the list before it falls apart.
    aside = job.path.with_name(f".deleted-{job.name}-{time.time_ns()}")
    try:
        os.rename(job.path, aside)
        shutil.rmtree(aside)
    except OSError as error:
        raise disk_error(error, job.path) from error


def measured_pace(runs_dir: str | Path, model: str) -> float | None:
    """Seconds a picture that the newest evaluation of that model took here; None where there was none."""
    newest = None
    for path in Path(runs_dir).glob("*/evaluations/*/pace.json"):
        try:
            told, at = json.loads(path.read_text("utf-8")), path.stat().st_mtime
            seconds, host = float(told["seconds"]), told["host"]
            if told["model"] == model and host == host_name() and (newest is None or at > newest[0]):
                newest = at, seconds
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            continue
    return newest[1] if newest else None


def list_evaluations(run: Run, runs_dir: str | Path | None = None) -> list[EvaluationJob]:
    """Every evaluation of a run, newest first. Never raises.

    runs_dir: the runs folder whose evaluations of the example are meant (None: the default one).
    """
    try:
        folder = evaluations_folder(run, runs_dir)
        found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    except OSError:
        return []
    jobs = [EvaluationJob(path) for path in found if path.is_dir()]
    return sorted(jobs, key=lambda job: (read_status(job.path)[0].made, job.name), reverse=True)


def find_evaluation(run: Run, name: str | None, runs_dir: str | Path | None = None) -> EvaluationJob:
    """The evaluation of that name. Raises RunError."""
    for job in list_evaluations(run, runs_dir):
        if job.name == name:
            return job
    raise RunError("There is no such evaluation. Choose one from the list.")


def pack(job: EvaluationJob, path: Path) -> Path:
    """The report as a zip: tables, figures, predictions; no picture, log, key or path. Raises RunError."""
    if not job.has_report:
        raise RunError("There is no report yet. It is written when the evaluation is done.")
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in REPORTS:
                if (job.path / name).is_file():
                    archive.write(job.path / name, f"{job.name}/{name}")
    except OSError as error:
        raise disk_error(error, path.parent) from error
    return path
