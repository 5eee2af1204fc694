"""Waiting for a round: one look after another, until there is an aggregate or the time is over."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from . import limits
from .errors import (
    AccessDenied,
    CredentialsInvalid,
    NotThere,
    RoundOverdue,
    StorageUnreachable,
)
from .pointer import Latest
from .status import Status, describe

logger = logging.getLogger(__name__)

#: After as many looks at a new aggregate, an update that still waits is taken not to be in it.
LOOKS = 3


@dataclass(frozen=True, kw_only=True)
class StorageState:
    """The state of storage at one moment, as far as a waiting client needs it.

    Parameters
    ----------
    latest : Latest or None
        None where it could not be read.
    progress : str
        What became of the update that was sent, in words; empty if it is not known.
    state : str
        Of the update that was sent; empty if it is not known.
    problem : str
        Why something could not be read; empty if everything could.
    """

    latest: Latest | None = None
    progress: str = ""
    state: str = ""
    problem: str = ""


def storage_state(
    status: Callable[[], Status | None], latest: Callable[[], Latest], sent_key: str
) -> StorageState:
    """Return the status of the update that was sent under a key, if one was, and the latest aggregate."""
    progress = state = ""
    try:
        found = status() if sent_key else None
        if found:
            progress, state = describe(found, sent_key)
        newest = latest()
    except CredentialsInvalid:
        raise
    except (NotThere, AccessDenied, StorageUnreachable) as error:
        return StorageState(progress=progress, state=state, problem=str(error))
    return StorageState(latest=newest, progress=progress, state=state)


def wait_for_aggregate(
    look: Callable[[], StorageState],
    *,
    after: int,
    timeout: float,
    poll: float,
    on_progress: Callable[[str], None] | None,
) -> Latest:
    """Poll storage until there is an aggregate with a higher number than ``after``.

    Raises
    ------
    RoundOverdue
        After ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    progress, looks = "", 0
    while True:
        state = _within(max(deadline - time.monotonic(), limits.LAST_LOOK_SECONDS), look)
        if state.progress and state.progress != progress:
            progress = state.progress
            logger.info("%s", progress)
            if on_progress:
                on_progress(progress)
        left = deadline - time.monotonic()
        if state.latest and state.latest.number > after:
            looks += 1
            if left <= 0 or _is_known(state.state, looks):
                return state.latest
        if left <= 0:
            reasons = [progress, state.problem and f"the last error: {state.problem}"]
            raise RoundOverdue(
                "; ".join(
                    [
                        f"there is no aggregate after number {after} yet; waited {timeout:g} seconds",
                        *filter(None, reasons),
                    ]
                )
            )
        time.sleep(min(poll, left))


def _is_known(state: str, looks: int) -> bool:
    """Return whether it is known that an update is in a new aggregate, or that it is not.

    The status follows the aggregate by a moment: until the third look, one that waits may be in it.
    """
    return state in ("", "complete", "superseded") or (state != "running" and looks >= LOOKS)


def _within(seconds: float, look: Callable[[], StorageState]) -> StorageState:
    """Return the result of a look, which is abandoned if storage takes longer to answer."""
    results: list[StorageState | BaseException] = []

    def run() -> None:
        try:
            results.append(look())
        except BaseException as error:  # Raised again in the thread that waits.
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not results:
        return StorageState(problem=f"storage did not answer within {seconds:g} seconds")
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]
