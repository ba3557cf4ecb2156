"""Slows down whoever guesses passwords, without locking anybody out for long."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import deque
from collections.abc import Callable

TRIES = 10  # wrong passwords from one address
WINDOW = 60.0  # seconds in which they count
NAME_TRIES = 100  # wrong passwords for one user name, from all addresses together
NAME_WINDOW = 3600.0  # seconds in which those count
NAME_PAUSE = 30.0  # seconds between two tries for a name that had so many
MOST_KEYS = 10_000  # addresses, and names


class Throttle:
    """Counts wrong passwords by address and by user name, in memory.

    A right password wipes out nothing but its own try: who knows the room's login must not be able to
    guess the second one without limit. Where a name was logged in from before, others' guesses at it from
    elsewhere slow nobody down.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._tries: dict[str, deque[float]] = {}
        self._names: dict[str, deque[float]] = {}
        self._known: dict[tuple[str, str], None] = {}  # addresses with a name that logged in there
        self._guard = threading.Lock()

    def begin(self, address: str, name: str = "") -> float:
        """Count a try before its password is looked at. Seconds to wait, uncounted, or 0 for go on."""
        now, network = self._clock(), _network(address)
        with self._guard:
            tries = _fresh(self._tries, network, now - WINDOW)
            if len(tries) >= TRIES:
                return tries[0] + WINDOW - now
            total = _fresh(self._names, name, now - NAME_WINDOW)
            if len(total) >= NAME_TRIES and (network, name) not in self._known:
                wait = total[-1] + NAME_PAUSE - now
                if wait > 0:
                    return wait
            tries.append(now)
            total.append(now)
            while len(total) > NAME_TRIES:
                total.popleft()
            return 0.0

    def passed(self, address: str, name: str = "") -> None:
        """The try was right: it does not count."""
        network = _network(address)
        with self._guard:
            for tries in (self._tries.get(network), self._names.get(name)):
                if tries:
                    tries.pop()
            self._known[network, name] = None
            while len(self._known) > MOST_KEYS:
                del self._known[next(iter(self._known))]


def _fresh(counts: dict[str, deque[float]], key: str, since: float) -> deque[float]:
    """The tries of a key that still count."""
    if len(counts) > MOST_KEYS:
        for other in [other for other, its in counts.items() if not its or its[-1] <= since]:
            del counts[other]
    tries = counts.setdefault(key, deque())
    while tries and tries[0] <= since:
        tries.popleft()
    return tries


def _network(address: str) -> str:
    """The address; of IPv6 its /64, which is what one customer has."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address
