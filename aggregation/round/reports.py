"""What the tasks of a distributed round report, and the summary that is kept with the round."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

from aggregation.round.values import TaskGroup, WorkerSummary

#: Beginning of the names of objects with the reports of measuring tasks.
MEASURED = "measured-"

#: Rows that a summary has of each kind of task. If there are more tasks, a row stands for several.
MAX_GROUPS = 32


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """What a task did.

    Parameters
    ----------
    kind : str
        ``combine``, or ``measure`` with the centre.
    first, last : int
        The segments or parts of the task, counted from 0; ``last`` is not part of it.
    bytes_read : int
        By the process that finished the task.
    seconds : float
        That this process took.
    retries : int
        How often the task had failed before.
    """

    kind: str
    first: int
    last: int
    bytes_read: int
    seconds: float
    retries: int

    def to_json(self) -> bytes:
        """Return the report as a JSON object."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> TaskReport:
        """Return the report that `to_json` wrote."""
        found: dict[str, Any] = json.loads(data)
        return cls(**found)


def measured_name(centre: str, task: int) -> str:
    """Return the name of the object with the report of a measuring task."""
    return f"{MEASURED}{centre}-{task:05d}.json"


def summarize(functions: int, reports: Iterable[TaskReport]) -> WorkerSummary:
    """Return a summary whose size does not depend on the number of tasks."""
    ordered = sorted(reports, key=lambda each: (each.kind == "combine", each.kind, each.first))
    groups: list[TaskGroup] = []
    for _, of_kind in groupby(ordered, attrgetter("kind")):
        groups += _groups(list(of_kind))
    return WorkerSummary(functions=functions, tasks=groups)


def _groups(reports: Sequence[TaskReport]) -> list[TaskGroup]:
    size = -(-len(reports) // MAX_GROUPS)
    return [_group(reports[start : start + size]) for start in range(0, len(reports), size)]


def _group(reports: Sequence[TaskReport]) -> TaskGroup:
    return TaskGroup(
        kind=reports[0].kind,
        tasks=len(reports),
        first=reports[0].first,
        last=reports[-1].last,
        bytes_read=sum(each.bytes_read for each in reports),
        seconds=round(max(each.seconds for each in reports), 3),
        retries=sum(each.retries for each in reports),
    )
