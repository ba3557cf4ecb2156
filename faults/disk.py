"""A disk that fills up, or turns read-only, while a run writes its checkpoint: on a small tmpfs."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from faults.figures import Figures
from faults.world import Stuck, World, learned, uninterrupted, until
from kpop.jobs import alive
from kpop.run_status import ENDED
from kpop.runs import Run

SIZE = "12m"
LEAVE = 300_000  # bytes left at most; a checkpoint of the small model takes 240,000


def disk(world: World, count: int) -> list[Figures]:
    """`count` times each: no room, then no right to write; the run says so, and goes on afterwards."""
    harms = (
        (Figures("disk full at checkpoint time", asked=count), _full, "is full"),
        (Figures("checkpoint folder read-only", asked=count), _read_only, "cannot be written"),
    )
    rows = [figures for figures, _, _ in harms]
    world.runs.mkdir(parents=True, exist_ok=True)
    try:
        _mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(world.runs))
    except (OSError, subprocess.CalledProcessError):
        for figures in rows:
            figures.not_run = "a tmpfs cannot be mounted here"
        return rows
    try:
        with world:
            world.start()
            reference = learned(uninterrupted(world))
            for figures, harm, words in harms:
                for _ in world.tries(figures):
                    try:
                        run = _harmed(world, harm, words, figures)
                        if run is not None:
                            world.finish(run, figures, reference)
                    except (Stuck, httpx.HTTPError) as error:
                        figures.stuck += 1
                        figures.notes.append(f"stuck: {error}")
    finally:
        subprocess.run(["umount", "-l", str(world.runs)], check=False, capture_output=True)
    return rows


def _harmed(world: World, harm, words: str, figures: Figures) -> Run | None:
    """A run whose worker ended by the harm, with the harm taken away again; None where it found room.

    words: of its error.
    """
    run = world.submit()
    target = world.draw.randint(2, world.settings["steps"] - 4)
    until(lambda: (run.checkpoint_step() or 0) >= target or run.status.state in ENDED, f"no step {target}")
    with harm(world, run):
        kept = run.checkpoint_step() or 0
        until(lambda: run.status.state in ENDED or not alive(run.status), f"{run.id} goes on", every=0.2)
        world.check(figures, run)
        figures.shown(world.ask("run_status", run=run.id))
    if run.damage or (run.checkpoint_step() or 0) < kept:
        figures.lost += 1
        figures.notes.append(f"lost: {run.damage or 'the checkpoint'}")
    world.end_of(run)
    told = figures.shown(str(run.status.error))
    if run.status.state == "done":
        return None  # it had ended before, or what was left was enough
    figures.struck += 1
    if words not in told:  # a full disk has no room for the sentence either
        figures.notes.append(f"told so: {told}")
    return run


@contextmanager
def _full(world: World, run: Run) -> Iterator[None]:
    ballast, left = world.runs / ".ballast", world.draw.randrange(LEAVE)
    with open(ballast, "wb", buffering=0) as file:
        for block in (1 << 16, 1 << 12):
            try:
                while True:
                    free = os.statvfs(world.runs)
                    if free.f_bavail * free.f_bsize < left + block:
                        break
                    file.write(bytes(block))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def _read_only(world: World, run: Run) -> Iterator[None]:
    folder = str(run.checkpoint_dir)
    _mount("--bind", folder, folder)
    try:
        until(lambda: _mounted("-o", "remount,bind,ro", folder), "never quiet", 20, every=0.01)
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True, capture_output=True)


def _mounted(*words: str) -> bool:
    try:
        _mount(*words)
    except subprocess.CalledProcessError:
        return False  # busy: a file is open for writing just now
    return True


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)
