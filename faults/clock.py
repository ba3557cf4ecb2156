"""A clock that jumps, by hours and days, while a server and a worker are at work."""

from __future__ import annotations

import time
from pathlib import Path

import httpx

from faults.figures import Figures
from faults.world import Stuck, World, learned, uninterrupted, until
from kpop.jobs import HELD
from kpop.run_status import ENDED

JUMPS = (-86_400.0, -3600.0, -90.0, 90.0, 3600.0, 86_400.0)  # seconds


def clock(world: World, count: int) -> list[Figures]:
    """`count` jumps; a run that trains through one must neither end nor get a second worker."""
    figures = Figures("clock jump (patched in the processes)", asked=count)
    turned = world.patch("FAULTS_CLOCK")
    with world:
        world.start()
        reference = learned(uninterrupted(world))
        for _ in world.tries(figures):
            try:
                _jump(world, turned, figures, reference)
            except (Stuck, httpx.HTTPError) as error:
                figures.stuck += 1
                figures.notes.append(f"stuck: {error}")
    return [figures]


def _jump(world: World, turned: Path, figures: Figures, reference: str) -> None:
    run = world.submit()
    until(lambda: run.status.state in HELD and run.status.pid, f"{run.id} is not started")
    pid = run.status.pid
    target = world.draw.randint(0, world.settings["steps"] // 2)
    until(lambda: len(run.metrics(None)) >= target or run.status.state in ENDED, f"no step {target}")
    jump = world.draw.choice(JUMPS)
    turned.with_suffix(".new").write_text(str(jump))
    turned.with_suffix(".new").replace(turned)
    if run.status.state in ENDED:
        return  # nobody trained it any more
    figures.struck += 1
    time.sleep(world.draw.uniform(2.5, 4.0))  # the server looks every two seconds
    world.check(figures, run)
    state = world.end_of(run)
    if state != "done" or run.status.pid != pid:
        figures.lost += 1
        figures.notes.append(f"jump of {jump:+.0f} s: {state}, {run.status.error}")
    world.finish(run, figures, reference)
