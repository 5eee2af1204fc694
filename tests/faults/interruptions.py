"""Processes that die, fail or stop before one of their calls to the connector."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from django.db import connections

from aggregation.round import RoundAnswer, run_round


class Killed(BaseException):
    """Ends a simulated process; no code catches it."""


class Interrupted:
    """A connector that calls a function before one of the calls to it.

    Parameters
    ----------
    connector
    call : int
        The number of the call, counted from 1.
    act : callable
        Kills, fails, or waits.
    """

    def __init__(
        self, connector: Any, call: int, act: Callable[[], None], calls: Any = None
    ) -> None:
        self._of = connector
        self._call = call
        self._act = act
        self._calls = calls or iter(range(1, 1_000_000))

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._of, name)
        if not callable(member):
            return member

        def call(*args: Any, **kwargs: Any) -> Any:
            if next(self._calls) == self._call:
                self._act()
            result = member(*args, **kwargs)
            is_sink = name == "new_result"
            return Interrupted(result, self._call, self._act, self._calls) if is_sink else result

        return call


def raising(error: BaseException) -> Callable[[], None]:
    """Return a function that raises an error."""

    def act() -> None:
        raise error

    return act


class Sleeper:
    """A process that stops before one of its calls until it is woken."""

    def __init__(self, connector: Any, model_id: int, call: int) -> None:
        self.is_asleep = True
        self._asleep = threading.Event()
        self._woken = threading.Event()
        self.answer: RoundAnswer | Exception | None = None
        interrupted = Interrupted(connector, call, self._sleep)
        self._thread = threading.Thread(target=self._run, args=(interrupted, model_id))
        self._thread.start()
        self._asleep.wait()

    def _sleep(self) -> None:
        self._asleep.set()
        self._woken.wait()

    def _run(self, connector: Any, model_id: int) -> None:
        try:
            self.answer = run_round(connector, model_id)
        except Exception as error:
            self.answer = error
        finally:
            connections.close_all()
            self.is_asleep = False
            self._asleep.set()

    def wake(self) -> RoundAnswer | Exception | None:
        """Let the process continue; return how its round ended."""
        self._woken.set()
        self._thread.join()
        return self.answer
