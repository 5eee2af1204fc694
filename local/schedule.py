"""The sweep every few seconds, which EventBridge schedules on AWS."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

logger = logging.getLogger(__name__)

#: How long closing waits for a running invocation. The thread is a daemon: it ends with the process.
STOP_SECONDS = 5


def scheduled_event(region: str, detail: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return an event of EventBridge's schedule; without detail it asks for a sweep of all models."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": "123456789012",
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": region,
        "resources": [f"arn:aws:events:{region}:123456789012:rule/sweep"],
        "detail": detail or {},
    }


class Schedule:
    """Invokes a function with the sweep's event at an interval while the context is open.

    Parameters
    ----------
    function : callable
        Takes the event, such as ``LambdaRuntime.invoke``.
    every_seconds : float
    region : str
    """

    def __init__(
        self, function: Callable[[Any], Any], *, every_seconds: float, region: str
    ) -> None:
        self._function = function
        self._every_seconds = every_seconds
        self._region = region
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._tick_until_stopped, name="schedule", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join(STOP_SECONDS)

    def _tick_until_stopped(self) -> None:
        while not self._stopped.wait(self._every_seconds):
            try:
                self._function(scheduled_event(self._region))
            except Exception as error:  # The next sweep does what this one did not.
                logger.warning("the sweep failed: %s", error)
