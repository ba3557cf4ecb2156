"""Two servers on one runs folder: each run is trained once, and one at a time."""

from __future__ import annotations

import threading
import time

import httpx

from faults.figures import Figures
from faults.world import Stuck, World, learned, uninterrupted
from kpop.jobs import HELD, alive


def servers(world: World, count: int) -> list[Figures]:
    """`count` runs, asked of both in turns; one server is killed and started again on the way."""
    figures = Figures("two servers on one runs folder", asked=count)
    with world:
        world.start()
        reference = learned(uninterrupted(world))
        world.start()
        watch = _Watch(world)
        watch.start()
        runs = []
        for turn in world.tries(figures):
            world.apps.reverse()
            try:
                runs.append(world.submit())
                figures.struck += 1
            except (Stuck, httpx.HTTPError) as error:
                figures.stuck += 1
                figures.notes.append(f"stuck: {error}")
            time.sleep(world.draw.uniform(0, 2))
            if turn == count // 2:
                world.kill(world.draw.choice(world.apps))
                world.start()
        for run in runs:
            world.check(figures, run)
            world.finish(run, figures, reference)
            begun = run.log_tail(1000).count(f"training {run.id}")
            if begun != 1:
                figures.lost += 1
                figures.notes.append(f"{run.id} was begun {begun} times")
        world.check(figures)
        watch.over.set()
        watch.join()
        if watch.most > 1:
            figures.lost += 1
            figures.notes.append(f"{watch.most} workers at once on one device")
    return [figures]


class _Watch(threading.Thread):
    """Counts the most workers seen alive at once."""

    def __init__(self, world: World):
        super().__init__(daemon=True)
        self.world, self.most, self.over = world, 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.2):
            held = [run.status for run in self.world.every_run()]
            pids = {s.pid for s in held if s.state in HELD and s.pid is not None and alive(s)}
            self.most = max(self.most, len(pids))
