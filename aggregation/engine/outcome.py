"""The outcome of a combination, and the progress from which it is resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from aggregation.engine.output import Progress
from aggregation.rules import Selection


@dataclass(frozen=True, kw_only=True)
class Combined:
    """The outcome of a combination.

    Parameters
    ----------
    selection : Selection
    norms : sequence of float, optional
        Euclidean norm of each update's difference from the parent (without a parent, from the median
        of the updates), if the rule needed them.
    bytes_read : int
    """

    selection: Selection
    norms: Sequence[float] | None
    bytes_read: int


class Measuring(TypedDict):
    """The progress of the pass that measures the updates; JSON-able.

    ``products`` are those of the finished segments, ``running`` those of an unfinished one.
    """

    next_element: int
    products: str
    running: str | None


class Checkpoint(TypedDict):
    """The progress of a combination; JSON-able. One is made for each part that is measured or stored.

    While the updates are measured, ``selection`` and ``progress`` are None. If ``norms`` is set by
    then, the updates are being measured for the second time. ``state`` is the progress of the
    optimizer's new state, if there is one.
    """

    measuring: Measuring | None
    norms: Sequence[float] | None
    selection: Any
    progress: Progress | None
    state: Progress | None
