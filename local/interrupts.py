"""Ctrl-C at any moment, and still nothing left behind."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

#: Whoever presses Ctrl-C twice must not stop the cleaning up.
CLEANING_UP_SECONDS = 10


class Interrupts:
    """Makes SIGINT and SIGTERM raise `KeyboardInterrupt`, but not while one is being dealt with.

    Attributes
    ----------
    came : bool
        Whether there was one. Python may wrap what a signal raises into another exception, as it does
        where a class is being made.
    """

    def __init__(self) -> None:
        self.came = False
        self._ignored_until = 0.0

    def watch(self) -> None:
        """From now on."""
        for number in SIGNALS:
            signal.signal(number, self._interrupt)

    def check(self) -> None:
        """Interrupt again where nobody noticed: Python drops what a signal raises in a destructor."""
        if self.came:
            raise KeyboardInterrupt

    def _interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        if time.monotonic() < self._ignored_until:
            return
        self.came = True
        self._ignored_until = time.monotonic() + CLEANING_UP_SECONDS
        raise KeyboardInterrupt


@contextmanager
def interrupts_postponed() -> Iterator[None]:
    """Hold signals back while a process is started or stopped: one that came before the process is
    known by name would leave it running."""
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
        for held_back in pending:
            signal.raise_signal(held_back)
