"""kill -9 of the worker, the server and both, at random moments of a run's life."""

from __future__ import annotations

import time
from contextlib import nullcontext

import httpx
import psutil

from faults.figures import Figures
from faults.world import Stuck, World, kill_worker, learned, torn_files, uninterrupted, until
from kpop.jobs import HELD, alive, device_lock
from kpop.run_status import ACTIVE, ENDED
from kpop.runs import Run

KINDS = ("worker", "server", "both")
START = 6.0  # seconds: about what a worker takes to its first step
BEFORE_THE_FIRST = 0.25  # share of the moments that lie before the first step of a worker
HELD_UP = 0.75  # share of a server's deaths after which the training waits for the next server
STEPS = 8  # a moment lies at most so many steps after the first, so that a run has several


def kills(world: World, kind: str, count: int, queue: int = 2) -> list[Figures]:
    """`count` kills that struck; every run harmed is carried to its end and compared.

    kind: of KINDS. queue: runs that are in training or wait while the harm is done.
    """
    figures = Figures(f"kill -9 of {'worker and server' if kind == 'both' else kind}", asked=count)
    harmed: dict[str, Run] = {}
    torn = 0
    with world:
        world.start()
        reference = learned(uninterrupted(world))
        for _ in world.tries(figures):
            try:
                if not world.apps:
                    world.start()
                run = _next_run(world, queue)
                _wait_for_a_moment(world, run)
                if not _kill(world, run, kind, figures):
                    continue
                torn += kind != "server" and bool(torn_files(run))
                harmed[run.id] = run
                _recover(world, run, figures)
            except (Stuck, httpx.HTTPError) as error:
                figures.stuck += 1
                figures.notes.append(f"stuck: {error}")
        for run in harmed.values():
            try:
                if not world.apps:
                    world.start()
                world.finish(run, figures, reference)
            except Stuck as error:
                figures.stuck += 1
                figures.notes.append(f"stuck: {error}")
    if torn:
        figures.notes.append(f"{torn} of {figures.struck} struck in the middle of a write.")
    return [figures]


def _next_run(world: World, queue: int) -> Run:
    """The run in training; others wait behind it."""
    while len([run for run in world.every_run() if run.status.state in ACTIVE]) < queue:
        world.submit()
    held = lambda: [run for run in world.every_run() if run.status.state in HELD]  # noqa: E731
    until(held, "the queue does not go on")
    return held()[0]


def _wait_for_a_moment(world: World, run: Run) -> None:
    """To a random step of the worker that is at it, or to a random moment before its first."""
    if world.draw.random() < BEFORE_THE_FIRST:
        time.sleep(world.draw.uniform(0, START))
        return
    begun, more = _newest(run), world.draw.randint(1, STEPS)
    until(
        lambda: run.status.state in ENDED or _newest(run) >= begun + more, f"no step {begun + more}",
        every=0.01,
    )  # fmt: skip
    time.sleep(world.draw.uniform(0, 0.1))  # anywhere in a step, a checkpoint among them


def _newest(run: Run) -> int:
    rows = run.metrics(None)
    return rows[-1]["step"] if rows else 0


def _kill(world: World, run: Run, kind: str, figures: Figures) -> bool:
    """Whether it struck: what should be killed lived, and the run was being trained."""
    before = run.checkpoint_step() or 0
    world.note(run)
    trained = run.status.state in HELD and alive(run.status)
    if kind == "server":
        struck = trained and world.apps[0].process.poll() is None
        world.kill(world.apps[0])
    else:
        struck = kill_worker(run)
        if kind == "both":
            world.kill(world.apps[0])
    if not struck:
        return False
    figures.struck += 1
    if (run.checkpoint_step() or 0) < before or run.damage:
        figures.lost += 1
        figures.notes.append(f"lost: checkpoint {run.checkpoint_step()} after {before}. {run.damage or ''}")
    return True


def _recover(world: World, run: Run, figures: Figures) -> None:
    """What a user does: open the app again, resume what ended. Raises Stuck."""
    if not world.apps:
        # As somebody's drawing would: the training waits, so that one run meets several such kills.
        waits = _trains(run) and world.draw.random() < HELD_UP
        with device_lock(world.runs) if waits else nullcontext():
            world.start()
    kept = run.checkpoint_step() or 0
    # Alive, ended, or declared dead: but never held by nobody.
    until(lambda: run.status.state in ENDED or _trains(run), f"{run.id} is {run.status.state}, of nobody")
    world.check(figures, run)
    status = run.status
    if (run.checkpoint_step() or 0) < kept:
        figures.lost += 1
    if status.state in ENDED and status.state != "done":
        told = figures.shown(world.ask("resume_run", run=run.id))
        if "event: complete" not in told:
            raise Stuck(f"not resumed: {told[:200]}")


def _trains(run: Run) -> bool:
    status = run.status
    return status.pid is not None and psutil.pid_exists(status.pid)
