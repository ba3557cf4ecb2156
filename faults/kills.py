"""kill -9 of the worker, the server and both, at random moments of a run's life."""

from __future__ import annotations

import time

import httpx

from faults.figures import Figures
from faults.world import Stuck, World, kill_worker, learned, torn_files, uninterrupted, until
from kpop.jobs import HELD
from kpop.run_status import ACTIVE, ENDED
from kpop.runs import Run

KINDS = ("worker", "server", "both")


def kills(world: World, count: int, queue: int = 2) -> list[Figures]:
    """`count` kills, in turns of each kind; every run harmed is carried to its end and compared.

    queue: runs that are in training or wait while the harm is done.
    """
    rows = {kind: Figures(f"kill -9 of {'worker and server' if kind == 'both' else kind}") for kind in KINDS}
    harmed: dict[str, tuple[Run, set[str]]] = {}
    torn = dict.fromkeys(KINDS, 0)
    with world:
        world.start()
        reference = learned(uninterrupted(world))
        for turn in world.turns(count):
            kind = KINDS[turn % len(KINDS)]
            figures = rows[kind]
            figures.times += 1
            try:
                if not world.apps:
                    world.start()
                run = _next_run(world, queue)
                _wait_for_a_moment(world, run)
                torn[kind] += _kill(world, run, kind, figures)
                _recover(world, run, figures)
            except (Stuck, httpx.HTTPError) as error:
                figures.stuck += 1
                figures.notes.append(f"stuck: {error}")
                continue
            harmed.setdefault(run.id, (run, set()))[1].add(kind)
        for run, kinds in harmed.values():
            end = Figures("end")
            world.finish(run, end, reference)
            for kind in kinds:  # a run harmed in several ways counts for each
                rows[kind].lost += end.lost
                rows[kind].resumed += end.resumed
                rows[kind].equal += end.equal
                rows[kind].stuck += end.stuck
                rows[kind].tracebacks += end.tracebacks
                rows[kind].notes += end.notes
    for kind, hits in torn.items():
        if hits:
            rows[kind].notes.append(f"{hits} of {rows[kind].times} struck in the middle of a write.")
    return list(rows.values())


def _next_run(world: World, queue: int) -> Run:
    """The run in training; others wait behind it."""
    while len([run for run in world.every_run() if run.status.state in ACTIVE]) < queue:
        world.submit()
    held = lambda: [run for run in world.every_run() if run.status.state in HELD]  # noqa: E731
    until(held, "the queue does not go on")
    return held()[0]


def _wait_for_a_moment(world: World, run: Run) -> None:
    """To a random step, or to a random moment before the first."""
    target = world.draw.randint(-world.settings["steps"] // 3, world.settings["steps"])
    if target <= 0:
        time.sleep(world.draw.uniform(0, 4))
        return
    until(
        lambda: run.status.state in ENDED or len(run.metrics(None)) >= target, f"no step {target}", every=0.02
    )
    time.sleep(world.draw.uniform(0, 0.15))


def _kill(world: World, run: Run, kind: str, figures: Figures) -> bool:
    """Whether a write was torn by it."""
    before = run.checkpoint_step() or 0
    world.note(run)
    if kind != "worker":
        world.kill(world.apps[0])
    if kind != "server":
        kill_worker(run)
    # After a server's death its worker lives on, and what it writes just now is no torn write.
    torn = kind != "server" and bool(torn_files(run))
    if (run.checkpoint_step() or 0) < before or run.damage:
        figures.lost += 1
        figures.notes.append(f"lost: checkpoint {run.checkpoint_step()} after {before}. {run.damage or ''}")
    return torn


def _recover(world: World, run: Run, figures: Figures) -> None:
    """What a user does: open the app again, resume what ended. Raises Stuck."""
    if not world.apps:
        world.start()
    kept = run.checkpoint_step() or 0
    # Alive, ended, or declared dead: but never held by nobody.
    until(lambda: run.status.state in ENDED or _trains(run), f"{run.id} is {run.status.state}, of nobody")
    world.check(figures)
    status = run.status
    figures.shown(str(status.error))
    if (run.checkpoint_step() or 0) < kept:
        figures.lost += 1
    if status.state in ENDED and status.state != "done":
        told = figures.shown(world.ask("resume_run", run=run.id))
        if "event: complete" not in told:
            raise Stuck(f"not resumed: {told[:200]}")


def _trains(run: Run) -> bool:
    import psutil

    status = run.status
    return status.pid is not None and psutil.pid_exists(status.pid)
