"""Many visitors press Draw at the same moment: are they served in the queue's order, how long waits the last.

The queue's order is what the server tells those who wait as their rank, read once when all of them are in
it; who is drawn for by then comes before them all and is not compared.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from gradio_client.utils import Status

POLL = 0.02  # seconds between two looks at the ranks
LIMIT = 1800.0  # seconds a burst may take


@dataclass
class Burst:
    """queued: users still waiting when all had asked, by rank; served: all that got an answer, by its time.

    waits: seconds each waited.
    """

    asked: int
    queued: list[int] = field(default_factory=list)
    served: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def pairs(self) -> int:
        """Pairs of waiting users that were both served."""
        count = sum(user in self.served for user in self.queued)
        return count * (count - 1) // 2

    @property
    def overtaken(self) -> int:
        """How many of these pairs were served the other way round."""
        place = {user: i for i, user in enumerate(self.served)}
        waited = [user for user in self.queued if user in place]
        return sum(place[first] > place[second] for first, second in combinations(waited, 2))

    def told(self) -> str:
        """In a sentence."""
        if not self.served:
            return f"Burst: none of {self.asked} that asked at the same moment was served."
        order = (
            f"{self.overtaken} of {self.pairs} pairs out of the queue's order"
            if self.queued
            else "the queue's order could not be read"
        )
        return (
            f"Burst: {self.asked} asked at the same moment, {len(self.served)} were served, {order}; the "
            f"longest wait was {max(self.waits):.1f} s."
        )


def burst(submits: Sequence[Callable]) -> Burst:
    """Let all ask at once. submits: one a user, each starts a gradio_client job and returns it."""
    found, guard = Burst(len(submits)), threading.Lock()
    jobs: list = [None] * len(submits)
    start = threading.Barrier(len(submits))

    def ask(number: int) -> None:
        start.wait()
        began = time.monotonic()
        try:
            jobs[number] = submits[number]()
            jobs[number].result(timeout=LIMIT)
        except Exception as error:  # told in the table
            with guard:
                found.errors.append(f"burst of user {number}: {type(error).__name__}: {error}"[:200])
            return
        with guard:
            found.served.append(number)
            found.waits.append(time.monotonic() - began)

    threads = [threading.Thread(target=ask, args=(i,), daemon=True) for i in range(len(submits))]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and not found.queued:
        found.queued = by_rank([job.status() if job is not None else None for job in jobs])
        time.sleep(POLL)
    for thread in threads:
        thread.join(timeout=LIMIT)
    return found


def by_rank(statuses: Sequence) -> list[int]:
    """Who waits, in the queue's order; [] while somebody has not asked, or the ranks are of two moments."""
    if any(status is None or status.code in (Status.STARTING, Status.JOINING_QUEUE) for status in statuses):
        return []
    waiting = [(each.rank, i) for i, each in enumerate(statuses) if each.code == Status.IN_QUEUE]
    ranks = [rank for rank, _ in waiting]
    if None in ranks or len(set(ranks)) < len(ranks):
        return []
    return [i for _, i in sorted(waiting)]
