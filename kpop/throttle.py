"""Slows down whoever guesses passwords, without locking anybody out for long."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import deque
from collections.abc import Callable

TRIES = 10  # wrong passwords from one address
WINDOW = 60.0  # seconds in which they count
MOST_ADDRESSES = 10_000


class Throttle:
    """Counts wrong passwords by address, in memory.

    A right password wipes out nothing but its own try: who knows the room's login must not be able to
    guess the second one without limit.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._tries: dict[str, deque[float]] = {}
        self._guard = threading.Lock()

    def begin(self, address: str) -> float:
        """Count a try before its password is looked at. Seconds to wait, uncounted, or 0 for go on."""
        now = self._clock()
        with self._guard:
            tries = self._fresh(_network(address), now)
            if len(tries) >= TRIES:
                return tries[0] + WINDOW - now
            tries.append(now)
            return 0.0

    def passed(self, address: str) -> None:
        """The try was right: it does not count."""
        with self._guard:
            tries = self._tries.get(_network(address))
            if tries:
                tries.pop()

    def _fresh(self, network: str, now: float) -> deque[float]:
        if len(self._tries) > MOST_ADDRESSES:
            self._tries = {key: its for key, its in self._tries.items() if its and its[-1] > now - WINDOW}
        tries = self._tries.setdefault(network, deque())
        while tries and tries[0] <= now - WINDOW:
            tries.popleft()
        return tries


def _network(address: str) -> str:
    """The address; of IPv6 its /64, which is what one customer has."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address
