"""How one combination is spread over several functions.

The work is cut into tasks: ranges of segments that are measured, and ranges of parts that are combined.
Segments and parts follow from the layout alone, and each is computed in the same way wherever that
happens. The bytes of the result therefore do not depend on the number of functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from aggregation.engine.measure import measures
from aggregation.engine.plan import Combination
from aggregation.engine.ranges import part_ends
from aggregation.engine.segments import segment_ends_of

#: Seconds that one task may read at the assumed rate. An Express workflow ends after five minutes, so
#: that a function at half the rate still finishes its task in time.
MAX_TASK_SECONDS = 120.0

#: First index of a task, and the index after its last one.
Task = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What the functions of a round can do.

    Parameters
    ----------
    bytes_per_second : float
        Rate at which one function reads from storage.
    target_seconds : float
        Time that the reading of a round should take.
    max_functions : int
        Functions that may work on one round at the same time.
    """

    bytes_per_second: float
    target_seconds: float
    max_functions: int

    def functions_for(self, nbytes: int) -> int:
        """Return how many functions read so many bytes within the target, up to the maximum."""
        one_function = max(int(self.bytes_per_second * self.target_seconds), 1)
        return max(1, min(-(-nbytes // one_function), self.max_functions))

    def tasks_for(self, nbytes: int, count: int, functions: int) -> tuple[Task, ...]:
        """Cut ``count`` segments or parts, which together read ``nbytes``, into tasks.

        The number of tasks is a multiple of ``functions`` where ``count`` allows it, so that all
        functions end at the same time.
        """
        longest = max(int(self.bytes_per_second * MAX_TASK_SECONDS), 1)
        waves = max(1, -(-nbytes // (longest * functions)))
        tasks = min(count, waves * functions)
        bounds = [count * task // tasks for task in range(tasks + 1)]
        return tuple(pairwise(bounds))


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """The tasks of a combination.

    Parameters
    ----------
    functions : int
        Functions that work at the same time.
    measuring : tuple of Task
        Ranges of segments; empty if the rule measures nothing.
    combining : tuple of Task
        Ranges of parts.
    """

    functions: int
    measuring: tuple[Task, ...]
    combining: tuple[Task, ...]


def distribute(work: Combination, capacity: Capacity, at_least: int = 2) -> Distribution | None:
    """Return how a combination is spread; None if it needs fewer functions than ``at_least``."""
    rows = len(work.updates) + (work.parent is not None)
    one_pass = rows * work.layout.nbytes
    passes = 1 + measures(work.rule)
    parts = len(part_ends(work.layout))
    functions = min(capacity.functions_for(passes * one_pass), parts)
    if functions < at_least:
        return None
    segments = len(segment_ends_of(work)) if measures(work.rule) else 0
    return Distribution(
        functions=functions,
        measuring=capacity.tasks_for(one_pass, segments, functions) if segments else (),
        combining=capacity.tasks_for(one_pass, parts, functions),
    )
