"""How far a combination is, as a share of its work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from aggregation.engine.plan import Combination


class ProgressMeter:
    """Reports the share of a combination's work that is done.

    Parameters
    ----------
    work : Combination
    report : callable
        Called with the share, from 0 to 1, after each chunk; with 1 at a successful end.
    """

    def __init__(self, work: Combination, report: Callable[[float], None]) -> None:
        self._total = work.bytes_to_read
        self._done = 0
        self._share = 0.0
        self._report = report

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None and self._share < 1.0:
            self._report(1.0)

    def advance(self, count: int) -> None:
        """Report that ``count`` more bytes were read."""
        self._done += count
        self._share = min(1.0, self._done / self._total)
        self._report(self._share)
