"""A round that several functions share: its requests, its duration, and what is billed for it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from aggregation.engine.distribution import Capacity, Distribution, Pieces, Task, distribute
from aggregation.engine.ranges import part_ends
from costs.duration import MB, REQUEST_SECONDS, REST_SECONDS
from costs.rounds import Pass, Work, count_chunks, result_writes
from costs.stack import Stack

#: States of `statemachines/round.asl.json` through which a round passes, and those that measuring adds.
#: Each child of a distributed map is billed as one more transition.
TRANSITIONS = 5
MEASURING_TRANSITIONS = 3

#: Assumed time of a transition, and of a distributed map until its children run and after they ended.
STATE_SECONDS = 0.1
MAP_SECONDS = 1.0

#: Assumed cold start of a worker: until its environment exists, and then INIT, which is billed. INIT of the
#: function takes 0.5 s in `make bench-cold`.
PLACEMENT_SECONDS = 0.5
INIT_SECONDS = 1.0

#: Memory for which an Express workflow of one task is billed: the least.
EXPRESS_GB = 64 / 1024

#: Express workflows are billed in steps of this length.
EXPRESS_STEP_SECONDS = 0.1

#: Requests that a task makes one after another, besides those that open and read the updates: for the plan
#: and for what is there already, and for its report; for the selection as well, in a task that combines.
MEASURING_REQUESTS = 3
COMBINING_REQUESTS = 4

#: The same for the plan, the selection and the publication.
PLANNING_REQUESTS = 5
SELECTING_REQUESTS = 5
PUBLISHING_REQUESTS = 5

#: Name of the term for which functions are added.
READING = "reading the updates"


def share(
    work: Work, stack: Stack, mb_a_second: float, target_seconds: float
) -> SharedRound | None:
    """Return how several functions share a round; None if one function does it.

    Parameters
    ----------
    work : Work
        With the memory of a worker.
    stack : Stack
    mb_a_second : float
        MB per second that one function reads.
    target_seconds : float
        Of the model.
    """
    capacity = Capacity(
        bytes_per_second=mb_a_second * MB,
        target_seconds=target_seconds,
        max_functions=stack.max_functions,
    )
    nbytes, measures = work.layout.nbytes, work.has_measuring_pass
    if not capacity.needs_several(work.updates * nbytes * (1 + measures)):
        return None
    rows = work.updates + (work.rule.on_differences or work.optimizer.takes_steps)
    combining = Pieces(count=work.parts, nbytes=rows * nbytes + work.state_nbytes)
    measuring = None
    if measures:
        measuring = Pieces(count=len(work.segments), nbytes=(work.updates + 1) * nbytes)
    distribution = distribute(capacity, combining, measuring)
    if distribution is None:
        return None
    distribution, part_bytes = distribution.with_even_parts(work.layout)
    return SharedRound(
        work=work,
        distribution=distribution,
        part_ends=part_ends(work.layout, part_bytes),
        mb_a_second=mb_a_second,
        read_threads=stack.read_threads,
    )


@dataclass(frozen=True, kw_only=True)
class SharedRound:
    """A round that several functions share.

    Parameters
    ----------
    work : Work
        With the memory of a worker.
    distribution : Distribution
    part_ends : sequence of int
        Elements before which the parts of the result end.
    mb_a_second : float
    read_threads : int
    """

    work: Work
    distribution: Distribution
    part_ends: Sequence[int]
    mb_a_second: float
    read_threads: int

    @property
    def functions(self) -> int:
        """The number of functions that work at the same time."""
        return self.distribution.functions

    @property
    def tasks(self) -> int:
        """The number of tasks of both passes."""
        return len(self.distribution.measuring) + len(self.distribution.combining)

    @property
    def transitions(self) -> int:
        """The number of transitions of the Standard workflow, one for each task among them."""
        measuring = MEASURING_TRANSITIONS if self.distribution.measuring else 0
        return TRANSITIONS + measuring + self.tasks

    @cached_property
    def terms(self) -> dict[str, float]:
        """What the duration consists of, in seconds."""
        maps = 1 + bool(self.distribution.measuring)
        task_terms = [self._opening(tasks) + self._storing(tasks) for tasks in self._passes]
        return {
            "claiming and planning": self._planning,
            "transitions of the state machine": STATE_SECONDS * (self.transitions - self.tasks),
            "starting the tasks": MAP_SECONDS * maps,
            "cold starts of the workers": PLACEMENT_SECONDS + INIT_SECONDS,
            "opening the updates and storing the last part": sum(task_terms),
            READING: sum(self._reading(tasks) for tasks in self._passes),
            "selecting": self._selecting,
            "publishing": self._publishing,
        }

    @property
    def seconds(self) -> float:
        """The duration from the claim to the published aggregate."""
        return sum(self.terms.values())

    @property
    def main_seconds(self) -> float:
        """Seconds of the aggregating function: it plans, selects and publishes, and waits for nobody."""
        return self._planning + self._selecting + self._publishing

    @property
    def worker_seconds(self) -> float:
        """Billed seconds of the workers."""
        return INIT_SECONDS * self.functions + sum(
            self._opening(tasks) + self._task_reading(task, tasks) + self._storing(tasks)
            for tasks in self._passes
            for task in tasks
        )

    @property
    def express_gb_seconds(self) -> float:
        """GB-seconds of the tasks' Express workflows, which last as long as their functions."""
        steps = self.tasks / 2  # On average, half a step is added to each.
        waiting = PLACEMENT_SECONDS * self.functions + EXPRESS_STEP_SECONDS * steps
        return EXPRESS_GB * (self.worker_seconds + waiting)

    @property
    def _passes(self) -> tuple[tuple[Task, ...], ...]:
        """The tasks of each pass."""
        measuring, combining = self.distribution.measuring, self.distribution.combining
        return (measuring, combining) if measuring else (combining,)

    def _is_measuring(self, tasks: tuple[Task, ...]) -> bool:
        return tasks is self.distribution.measuring

    def _reading(self, tasks: tuple[Task, ...]) -> float:
        """Return the seconds of a pass: each function does one task after another."""
        seconds = [self._task_reading(task, tasks) for task in tasks]
        starts = range(0, len(seconds), self.functions)
        return sum(max(seconds[start : start + self.functions]) for start in starts)

    def _task_reading(self, task: Task, tasks: tuple[Task, ...]) -> float:
        nbytes, reads = self._read_by(task, tasks)
        return max(nbytes / MB / self.mb_a_second, self._waiting(reads))

    def _read_by(self, task: Task, tasks: tuple[Task, ...]) -> tuple[int, int]:
        """Return the bytes and the ranged GETs of a task."""
        measuring = self._is_measuring(tasks)
        each: Pass = self.work.passes[0 if measuring else -1]
        ends = self.work.segments if measuring else self.part_ends
        first, last = task
        start = ends[first - 1] if first else 0
        elements = ends[last - 1] - start
        chunks = count_chunks([end - start for end in ends[first:last]], each.chunk)
        return each.bytes_between(elements), each.objects * chunks

    def _waiting(self, requests: float) -> float:
        return requests * REQUEST_SECONDS / min(self.read_threads, max(requests, 1))

    def _opening(self, tasks: tuple[Task, ...]) -> float:
        """Return the seconds of a task before its first range is requested."""
        requests = MEASURING_REQUESTS if self._is_measuring(tasks) else COMBINING_REQUESTS
        return REQUEST_SECONDS * requests + self._waiting(self.work.updates + 3)

    def _storing(self, tasks: tuple[Task, ...]) -> float:
        """Return the seconds of a task after its last range was read."""
        if self._is_measuring(tasks):
            return REQUEST_SECONDS
        part = self.work.layout.nbytes / len(self.part_ends)
        return REQUEST_SECONDS + part / MB / self.mb_a_second

    @property
    def _planning(self) -> float:
        opening = self._waiting(self.work.updates + 3)
        return REST_SECONDS + REQUEST_SECONDS * PLANNING_REQUESTS + opening

    @property
    def _selecting(self) -> float:
        if not self.distribution.measuring:
            return 0.0
        products = self._waiting(len(self.work.segments))
        return REST_SECONDS + REQUEST_SECONDS * SELECTING_REQUESTS + products

    @property
    def _publishing(self) -> float:
        reports = self._waiting(self.tasks)
        return REST_SECONDS + REQUEST_SECONDS * PUBLISHING_REQUESTS + reports

    @cached_property
    def requests(self) -> Counter[str]:
        """The requests to S3 by operation; deleting the plan costs nothing."""
        return self._planning_requests + self._task_requests + self._joining_requests

    @property
    def _opening_requests(self) -> Counter[str]:
        """Headers: of each update, of the parent, and of the optimizer's state."""
        own = 1 + bool(self.work.state)
        return Counter(HeadObject=own, GetObject=self.work.updates + own)

    @property
    def _planning_requests(self) -> Counter[str]:
        selected = not self.distribution.measuring
        return self._opening_requests + Counter(
            PutObject=1 + selected, GetObject=1, ListObjectsV2=1
        )

    @property
    def _task_requests(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for tasks in self._passes:
            measuring = self._is_measuring(tasks)
            written = 1 + bool(self.work.state)
            listing = {"ListObjectsV2": 1} if measuring else {"ListParts": written}
            for task in tasks:
                counts += self._opening_requests + Counter(listing)
                # The plan; and, to combine, the selection and the metadata of the parent.
                counts["GetObject"] += (1 if measuring else 3) + self._read_by(task, tasks)[1]
                # A report, and the products of each segment.
                counts["PutObject"] += 1 + (task[1] - task[0] if measuring else 0)
        return counts + result_writes(len(self.part_ends)) + self.work.state_writes(self.part_ends)

    @property
    def _joining_requests(self) -> Counter[str]:
        """Of the selection, and of the completed result."""
        pages = math.ceil(len(self.part_ends) / 1000)
        counts = Counter(
            GetObject=2 + self.tasks,
            ListObjectsV2=1,
            ListParts=pages * (1 + bool(self.work.state)),
        )
        if self.distribution.measuring:
            segments = len(self.work.segments)
            counts += Counter(GetObject=2 + segments, ListObjectsV2=2, PutObject=1)
        return counts
