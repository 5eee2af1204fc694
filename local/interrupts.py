"""Ctrl-C at any moment, without leaving a process behind."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

#: Further interrupts are ignored this long, so that a second Ctrl-C does not stop the cleaning up.
CLEANING_UP_SECONDS = 10


class Interrupts:
    """Makes SIGINT and SIGTERM raise `KeyboardInterrupt`, but not while one is being handled.

    Attributes
    ----------
    received : bool
        Whether there was an interrupt. Python may wrap the exception of a signal handler in another
        one, for example while a class is created.
    """

    def __init__(self) -> None:
        self.received = False
        self._ignored_until = 0.0

    def watch(self) -> None:
        """Install the signal handlers."""
        for number in SIGNALS:
            signal.signal(number, self._interrupt)

    def check(self) -> None:
        """Raise the interrupt again if it was lost: Python drops an exception in a destructor."""
        if self.received:
            raise KeyboardInterrupt

    def _interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        if time.monotonic() < self._ignored_until:
            return
        self.received = True
        self._ignored_until = time.monotonic() + CLEANING_UP_SECONDS
        raise KeyboardInterrupt


@contextmanager
def interrupts_postponed() -> Iterator[None]:
    """Delay signals while a process is started or stopped.

    An interrupt between the start of a process and the assignment of its handle would leave it running.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python runs signal handlers in the main thread only.
        return
    pending: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _frame: pending.append(number))
        for number in SIGNALS
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for delayed in pending:
            signal.raise_signal(delayed)
