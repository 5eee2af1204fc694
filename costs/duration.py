"""Estimate the duration of a round and the number of its invocations."""

from __future__ import annotations

import math
from dataclasses import dataclass

from costs.rounds import Pass, Work
from costs.stack import Stack

MB = 1_000_000

#: MB per second that a weighted mean read over S3 in `make bench-peers` on 2026-11-24: 400 MB in 1.5 s on
#: two cores, from a server on the same machine that delays each request by 30 ms. Not measured on AWS.
MEASURED_MB_A_SECOND = 270.0

#: Assumed network bandwidth of one function, from published measurements: 39 to 57 MB/s for objects that
#: are read one after another, and somewhat more with parallel ranges.
NETWORK_MB_A_SECOND = 70.0

#: Assumed time to the first byte of S3; the requests of one round wait in parallel.
REQUEST_SECONDS = 0.03

#: Assumed time of a round without reading: claiming, opening, publishing.
REST_SECONDS = 0.5

#: Assumed time of an invocation that registers one upload.
INTAKE_SECONDS = 0.2

#: The function stops this long before its timeout; see `connectors.runtime.dispatcher`.
STOP_BEFORE_END_SECONDS = 20.0
STOP_BEFORE_END_SHARE = 0.2

#: Lambda stops a chain of about this many invocations; the next sweep continues the round.
CHAIN = 16


class NoProgress(Exception):
    """No invocation can store a part of the result, so the round would never end."""


def default_rate() -> float:
    """Return the MB per second that one function is assumed to read."""
    return min(MEASURED_MB_A_SECOND, NETWORK_MB_A_SECOND)


@dataclass(frozen=True, kw_only=True)
class Duration:
    """The duration of a round.

    Parameters
    ----------
    seconds : float
        Duration in a single invocation without a timeout.
    invocations : int
    billed_seconds : float
        Duration of all invocations: each opens the updates again, and repeats on average half a part.
    """

    seconds: float
    invocations: int
    billed_seconds: float

    @property
    def sweeps(self) -> int:
        """The number of sweeps that must continue the round after Lambda stopped a chain of invocations."""
        return (self.invocations - 1) // CHAIN


def duration(work: Work, stack: Stack, mb_a_second: float) -> Duration:
    """Estimate how long a round takes in a function that reads ``mb_a_second``.

    Raises
    ------
    NoProgress
        If an invocation ends before it has stored a part of the result.
    """

    def read(nbytes: float, reads: float) -> float:
        waiting = reads * REQUEST_SECONDS / min(stack.read_threads, max(reads, 1))
        return max(nbytes / MB / mb_a_second, waiting)

    def run(each: Pass) -> float:
        return read(each.nbytes, each.reads)

    start = REST_SECONDS + read(0, work.updates + 3)
    passes = [run(each) for each in work.passes]
    part = passes[-1] / work.parts
    return _spread(start, start + sum(passes), part, _usable_seconds(stack))


def _usable_seconds(stack: Stack) -> float:
    """Return the time of an invocation after which the function stops."""
    margin = min(STOP_BEFORE_END_SECONDS, stack.timeout_seconds * STOP_BEFORE_END_SHARE)
    return stack.timeout_seconds - margin


def _spread(start: float, seconds: float, part: float, usable: float) -> Duration:
    """Return the duration of a round that is divided into invocations of ``usable`` seconds.

    A pass that measures saves its progress at any time, a pass that combines after each part.
    """
    if seconds <= usable:
        return Duration(seconds=seconds, invocations=1, billed_seconds=seconds)
    if start + part > usable:
        raise NoProgress(
            f"an invocation stops after {usable:.0f} s, but the first part of the result takes "
            f"{start + part:.4g} s, and each invocation would start with it again"
        )
    repeated = start + part / 2
    further = math.ceil((seconds - usable) / (usable - repeated))
    billed = seconds + further * repeated
    return Duration(seconds=seconds, invocations=1 + further, billed_seconds=billed)
