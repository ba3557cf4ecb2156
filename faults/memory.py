"""A device that runs out of memory or is lost, simulated where a worker gets its tensors."""

from __future__ import annotations

import httpx

from faults.figures import Figures
from faults.world import Stuck, World, learned, uninterrupted

TENSORS = (200, 60_000)  # of a worker's life, in which one is refused
WORDS = {"memory": "out of memory", "device": "was lost"}


def memory(world: World, count: int) -> list[Figures]:
    """`count` times each: the allocator refuses at a random tensor; told in words, then resumed."""
    rows = {
        "memory": Figures("out of memory (simulated at the allocator)", asked=count),
        "device": Figures("device lost (simulated at the allocator)", asked=count),
    }
    order = world.patch("FAULTS_MEMORY")
    with world:
        world.start()
        reference = learned(uninterrupted(world))
        for kind, figures in rows.items():
            for _ in world.tries(figures):
                low, high = TENSORS
                order.write_text(f"{kind} {int(low * (high / low) ** world.draw.random())}")
                struck = order.with_suffix(".struck")
                try:
                    run = world.submit()
                    state = world.end_of(run)
                    if not struck.exists():
                        continue  # it ended before a tensor was refused
                    struck.unlink()
                    figures.struck += 1
                    world.check(figures, run)
                    told = str(run.status.error)
                    if state == "failed" and WORDS[kind] not in told:
                        figures.notes.append(f"told so: {told}")
                except (Stuck, httpx.HTTPError) as error:
                    figures.stuck += 1
                    figures.notes.append(f"stuck: {error}")
                    continue
                world.finish(run, figures, reference)
    return list(rows.values())
