"""Ctrl-C during a training."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, so that a step is never torn; a second one raises at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield event  # somebody else decides what Ctrl-C means
        return

    def asked(*_: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    signal.signal(signal.SIGINT, asked)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
