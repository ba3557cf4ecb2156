"""python -m faults: harm of every kind, then counts. Exit status 1 where one of them is not as it should be,
or where a fault did not strike as often as asked.

python -m faults --out docs/reliability.md
python -m faults kill-worker kill-server kill-both --kills 50 --together 3
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import random
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from faults.clock import clock
from faults.damage import damage
from faults.disk import disk
from faults.figures import Figures, table, write_page
from faults.fuzz import fuzz
from faults.fuzz_http import fuzz_http
from faults.kills import kills
from faults.memory import memory
from faults.servers import servers
from faults.world import World, make_model

Kind = Callable[[World, argparse.Namespace], list[Figures]]
KINDS: dict[str, Kind] = {
    "kill-worker": lambda world, asked: kills(world, "worker", asked.kills),
    "kill-server": lambda world, asked: kills(world, "server", asked.kills),
    "kill-both": lambda world, asked: kills(world, "both", asked.kills),
    "disk": lambda world, asked: disk(world, asked.times),
    "damage": lambda world, asked: damage(world, 5 * asked.times),
    "clock": lambda world, asked: clock(world, asked.times),
    "servers": lambda world, asked: servers(world, asked.times),
    "memory": lambda world, asked: memory(world, asked.times),
    "fuzz": lambda world, asked: fuzz(world, asked.requests),
    "http": lambda world, asked: fuzz_http(world, asked.requests),
}

IN_PROCESS = ("damage", "fuzz")  # in the main thread: they train here, or take its alarm clock


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("kinds", nargs="*", metavar="kind", help=f"of {', '.join(KINDS)} (default: all)")
    add("--seed", type=int, default=0, help="of the random moments")
    add("--kills", type=int, default=50, help="kill -9 of each: the worker, the server, both")
    add("--times", type=int, default=10, help="occasions of every other fault")
    add("--requests", type=int, default=1000, help="malformed inputs of each kind")
    add("--minutes", type=float, default=math.inf, help="no new harm by kinds with servers after these")
    add("--together", type=int, default=1, help="kinds with servers of their own that go on at once")
    add("--out", type=Path, help="the page to write")
    asked = parser.parse_args()
    unknown = [kind for kind in asked.kinds if kind not in KINDS]
    if unknown:
        parser.error(f"unknown kind {unknown[0]!r}")
    return asked


def main() -> int:
    asked = arguments()
    logging.disable(logging.WARNING)
    os.environ["OMP_NUM_THREADS"] = "1"  # several trainings at once, and the same sums in each
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kpop-faults-") as folder:
        os.environ["KPOP_CACHE"] = str(Path(folder) / "cache")  # and nothing of it in the user's
        rows = harm(asked, Path(folder))
    print(table(rows))
    if asked.out:
        command = shlex.join(["python", "-m", "faults", *sys.argv[1:]])
        write_page(asked.out, rows, command, asked.seed, (time.monotonic() - began) / 60)
    return 0 if all(row.holds for row in rows) else 1


def harm(asked: argparse.Namespace, folder: Path) -> list[Figures]:
    """Every kind asked for, each in a world of its own; the figures in the order of KINDS."""
    model = make_model(folder / "model")
    over_at = time.monotonic() + 60 * asked.minutes

    def one(kind: str) -> list[Figures]:
        draw = random.Random(f"{asked.seed} {kind}")
        world = World(folder / kind, model, draw, over_at=over_at)
        print(f"{time.strftime('%H:%M:%S')} {kind}", file=sys.stderr, flush=True)
        try:
            rows = KINDS[kind](world, asked)
        except Exception as error:  # the other kinds' figures are worth having
            rows = [Figures(kind, stuck=1, notes=[f"broke off: {type(error).__name__}: {error}"])]
        for row in rows:
            left = "" if row.times or row.stuck or not row.asked else "no time was left"
            row.not_run = row.not_run or left
            row.notes = [note.replace(str(folder), "...") for note in row.notes]
        print(f"{time.strftime('%H:%M:%S')} {kind} is over\n{table(rows)}", file=sys.stderr, flush=True)
        return rows

    kinds = [kind for kind in KINDS if kind in (asked.kinds or KINDS)]
    with ThreadPoolExecutor(asked.together) as pool:
        found = {kind: pool.submit(one, kind) for kind in kinds if kind not in IN_PROCESS}
        done = {kind: one(kind) for kind in kinds if kind in IN_PROCESS}
        return [row for kind in kinds for row in (done[kind] if kind in done else found[kind].result())]


if __name__ == "__main__":
    sys.exit(main())
