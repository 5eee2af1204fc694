"""The tasks of a distributed round that read updates: measuring segments, and combining parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from aggregation.engine import Passes, Resources
from aggregation.engine.combine import combine_steps
from aggregation.engine.plan import Combination
from aggregation.engine.segments import Centre, measure_segments, segment_ends_of
from aggregation.engine.steps import BEGINNING, steps_of
from aggregation.errors import UpdatesRejected
from aggregation.round.attempt import Attempt
from aggregation.round.plan import PLAN, SELECTION, Plan, rejections_by_id, segment_name, task_name
from aggregation.round.plan_sinks import open_sinks
from aggregation.round.port import DistributedRoundConnector, ResultSink
from aggregation.round.reports import TaskReport, measured_name
from aggregation.round.values import ClaimedUpdate
from aggregation.rules import Selection


class Worker:
    """Does the tasks of a plan that read updates.

    Parameters
    ----------
    connector : DistributedRoundConnector
    location : str
        The folder of the plan.
    resources : Resources
    out_of_time : callable
        Called after every chunk; when it returns True, the task raises `OutOfTime`.
    clock : callable
        Returns the time in seconds, for the reports.
    """

    def __init__(
        self,
        connector: DistributedRoundConnector,
        location: str,
        resources: Resources,
        out_of_time: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._clock = clock
        self._started = clock()
        self._connector = connector
        self._folder = connector.folder(location)
        self._plan = Plan.from_json(self._folder.read(PLAN))
        self._resources = resources
        self._out_of_time = out_of_time

    def measure(self, task: int, centre: str, retries: int = 0) -> TaskReport:
        """Measure the segments of a task, and store the products of each.

        Parameters
        ----------
        task : int
        centre : str
        retries : int
            How often the task has failed; it is reported.
        """
        first, last = self._plan.distribution.measuring[task]
        attempt, usable, work = self._open()
        rejected, bytes_read = dict(attempt.rejected), 0
        if not rejected:
            try:
                bytes_read = self._measure_segments(work, Centre(centre), first, last)
            except UpdatesRejected as error:
                rejected = rejections_by_id(error, usable)
        if rejected:
            self._reject(f"{centre}-{task:05d}", rejected)
        report = self._report(f"measure ({centre})", first, last, bytes_read, retries)
        self._folder.write(measured_name(centre, task), report.to_json())
        return report

    def _measure_segments(self, work: Combination, centre: Centre, first: int, last: int) -> int:
        names, ends = self._folder.names(), segment_ends_of(work)
        while first < last and segment_name(centre.value, first) in names:
            first += 1
        start = ends[first - 1] if first else 0
        with ExitStack() as stack:
            passes = Passes(work, self._resources, stack, self._out_of_time, lambda count: None)
            found = measure_segments(passes, centre, start, ends[last - 1])
            for index, (_, products) in enumerate(found, first):
                data = np.ascontiguousarray(products, "<f8").tobytes()
                self._folder.write(segment_name(centre.value, index), data)
            return passes.bytes_read

    def combine(self, task: int, retries: int = 0) -> TaskReport:
        """Compute and store the parts of a task that are not stored yet."""
        first, last = self._plan.distribution.combining[task]
        attempt, usable, work = self._open()
        rejected, bytes_read = dict(attempt.rejected), 0
        if not rejected:
            try:
                bytes_read = self._combine_steps(work, first, last)
            except UpdatesRejected as error:
                rejected = rejections_by_id(error, usable)
        if rejected:
            self._reject(f"combine-{task:05d}", rejected)
        report = self._report("combine", first, last, bytes_read, retries)
        self._folder.write(task_name(task), report.to_json())
        return report

    def _combine_steps(self, work: Combination, first: int, last: int) -> int:
        saved = json.loads(self._folder.read(SELECTION))
        result, *states = open_sinks(self._connector, self._plan)
        first = self._first_missing(work, first, last, [result, *states])
        if first == last:
            return 0
        return combine_steps(
            work,
            Selection.from_json(saved["selection"]),
            result,
            first,
            last,
            part_bytes=self._plan.part_bytes,
            state_sink=states[0] if states else None,
            resources=self._resources,
            out_of_time=self._out_of_time,
        )

    def _first_missing(
        self, work: Combination, first: int, last: int, sinks: Sequence[ResultSink]
    ) -> int:
        """Return the first step of a range of which a part is not stored; the end if there is none."""
        stored = [sink.stored_parts() for sink in sinks]
        steps = [BEGINNING, *steps_of(work, self._plan.part_bytes)]
        for number in range(first, last):
            start, end = steps[number], steps[number + 1]
            parts = (start.parts, end.parts), (start.state_parts, end.state_parts)
            for (before, after), found in zip(parts, stored, strict=False):
                if not found.issuperset(range(before + 1, after + 1)):
                    return number
        return last

    def _report(
        self, kind: str, first: int, last: int, bytes_read: int, retries: int
    ) -> TaskReport:
        seconds = self._clock() - self._started
        return TaskReport(
            kind=kind,
            first=first,
            last=last,
            bytes_read=bytes_read,
            seconds=seconds,
            retries=retries,
        )

    def _open(self) -> tuple[Attempt, list[ClaimedUpdate], Combination]:
        """Open the updates of the plan; those that can no longer be used are in `Attempt.rejected`."""
        attempt = Attempt(self._connector, self._plan.claim, self._resources, self._out_of_time)
        usable, work = attempt.open()
        return attempt, usable, work

    def _reject(self, task: str, rejected: Mapping[int, str]) -> None:
        self._folder.write(f"rejected-{task}.json", json.dumps(rejected).encode())
