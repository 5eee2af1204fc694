"""How one combination is spread over several functions.

The work is cut into tasks: ranges of segments that are measured, and ranges of parts that are combined.
Each segment follows from the layout and the number of updates, and each part is computed in the same way
wherever it ends. The bytes of the result therefore do not depend on the number of functions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from aggregation.engine import ranges
from aggregation.engine.ranges import MAX_PARTS, part_bytes_of, part_ends
from aggregation.layout import TensorLayout

#: Seconds that one task may read at the assumed rate. An Express workflow ends after five minutes, so
#: that a function at half the rate still finishes its task in time.
MAX_TASK_SECONDS = 120.0

#: Seconds that a task may read that has a single segment or part, which cannot be divided.
LONGEST_TASK_SECONDS = 200.0

#: Assumed seconds of a distributed round in which no function reads updates: planning, the state machine,
#: cold starts and publishing; and those that a measuring pass adds. `costs.shared` has the terms.
OVERHEAD_SECONDS = 5.5
MEASURING_SECONDS = 2.0

#: First index of a task, and the index after its last one.
Task = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """The pieces into which a pass is cut: segments, or parts.

    Parameters
    ----------
    count : int
    nbytes : int
        Bytes that are read for all of them.
    """

    count: int
    nbytes: int

    def largest_share(self, functions: int) -> float:
        """Return the bytes that the function with the most pieces reads."""
        return -(-self.count // functions) * self.nbytes / self.count


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What the functions of a round can do.

    Parameters
    ----------
    bytes_per_second : float
        Rate at which one function reads from storage.
    target_seconds : float
        Time that a round should take.
    max_functions : int
        Functions that may work on one round at the same time.
    """

    bytes_per_second: float
    target_seconds: float
    max_functions: int

    def needs_several(self, nbytes: int) -> bool:
        """Return whether one function takes longer than the target to read so many bytes."""
        return self.max_functions > 1 and nbytes > self.bytes_per_second * self.target_seconds

    def functions_for(self, combining: Pieces, measuring: Pieces | None = None) -> int:
        """Return the fewest functions that finish a distributed round within the target.

        A function measures whole segments, so that a few more functions may not be faster; the parts are
        cut evenly (`Distribution.with_even_parts`). If even one function for each piece takes too long,
        all that are allowed and have something to do are returned.
        """
        passes = [combining, measuring] if measuring else [combining]
        overhead = OVERHEAD_SECONDS + (MEASURING_SECONDS if measuring else 0.0)
        readable = self.bytes_per_second * max(self.target_seconds - overhead, 0.0)
        most = min(self.max_functions, max(each.count for each in passes))
        for functions in range(1, most):
            share = combining.nbytes / functions
            if share + (measuring.largest_share(functions) if measuring else 0.0) <= readable:
                return functions
        return most

    def can_read(self, pieces: Pieces) -> bool:
        """Return whether a function reads one of the pieces in the time of a task."""
        return pieces.largest_share(pieces.count) <= self.bytes_per_second * LONGEST_TASK_SECONDS

    def tasks_for(self, pieces: Pieces, functions: int) -> tuple[Task, ...]:
        """Cut the pieces of a pass into tasks.

        The number of tasks is a multiple of ``functions`` where the number of pieces allows it, so that
        all functions end at the same time.
        """
        longest = max(int(self.bytes_per_second * MAX_TASK_SECONDS), 1)
        waves = max(1, -(-pieces.nbytes // (longest * functions)))
        return _cut(pieces.count, waves * functions)


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
        Ranges of parts, or of steps (`aggregation.engine.steps.Step`), which without an optimizer's state
        are parts.
    """

    functions: int
    measuring: tuple[Task, ...]
    combining: tuple[Task, ...]

    @property
    def parts(self) -> int:
        """The number of parts."""
        return self.combining[-1][1]

    @property
    def segments(self) -> int:
        """The number of segments; 0 if the rule measures nothing."""
        return self.measuring[-1][1] if self.measuring else 0

    def with_even_parts(self, layout: TensorLayout) -> tuple[Distribution, int]:
        """Return the distribution with as many parts in each combining task, and the size of a part.

        A task with one part more than the others keeps all functions waiting: of 21 parts, one of eight
        functions combines three, and eight are then not even seven times as fast as one. The parts are at
        most as large as those of one function, and larger than half of `ranges.PART_BYTES`, because
        smaller ones are joined.
        """
        tasks = -(-len(self.combining) // self.functions) * self.functions
        parts = -(-layout.nbytes // part_bytes_of(layout.nbytes))
        evenly = -(-parts // tasks) * tasks
        if evenly > MAX_PARTS:
            evenly = MAX_PARTS // tasks * tasks or MAX_PARTS
        part_bytes = max(-(-layout.nbytes // evenly), ranges.PART_BYTES // 2 + 16)
        count = len(part_ends(layout, part_bytes))
        return replace(self, combining=_cut(count, tasks)), part_bytes

    def of_steps(self, count: int) -> Distribution:
        """Return the distribution with so many steps cut into the combining tasks."""
        return replace(self, combining=_cut(count, len(self.combining)))


def distribute(
    capacity: Capacity, combining: Pieces, measuring: Pieces | None = None, *, at_least: int = 2
) -> Distribution | None:
    """Return how a combination is spread.

    Parameters
    ----------
    capacity : Capacity
    combining : Pieces
        The parts of the result, and the bytes of all updates that may be combined.
    measuring : Pieces, optional
        The segments, and the bytes of all updates and of the parent; for rules that measure.
    at_least : int

    Returns
    -------
    Distribution or None
        None if the round needs fewer functions than ``at_least``.
    """
    functions = capacity.functions_for(combining, measuring)
    if functions < at_least:
        return None
    return Distribution(
        functions=functions,
        measuring=capacity.tasks_for(measuring, functions) if measuring else (),
        combining=capacity.tasks_for(combining, functions),
    )


def _cut(count: int, tasks: int) -> tuple[Task, ...]:
    """Cut so many pieces into so many tasks, or into as many as there are pieces."""
    tasks = min(count, tasks)
    return tuple(pairwise(count * task // tasks for task in range(tasks + 1)))
