"""The summary of what the tasks of a distributed round did."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from aggregation.round.reports import MAX_GROUPS, TaskReport, summarize


@st.composite
def reports(draw: st.DrawFn) -> list[TaskReport]:
    """Draw reports of consecutive tasks of some kinds, in any order."""
    drawn = []
    for kind in draw(st.sets(st.sampled_from(["combine", "measure (parent)", "measure (median)"]))):
        last = 0
        for length in draw(st.lists(st.integers(1, 5), max_size=3 * MAX_GROUPS)):
            first, last = last, last + length
            drawn.append(
                TaskReport(
                    kind=kind,
                    first=first,
                    last=last,
                    bytes_read=draw(st.integers(0, 10**12)),
                    seconds=float(draw(st.integers(0, 300))),
                    retries=draw(st.integers(0, 4)),
                )
            )
    return draw(st.permutations(drawn))


@given(reports())
def test_a_summary_is_bounded_and_loses_nothing(tasks: list[TaskReport]) -> None:
    """A summary has few rows; they cover all tasks, and their sums are those of the tasks."""
    summary = summarize(8, tasks)
    groups = summary["tasks"]
    kinds = {task.kind for task in tasks}
    assert len(groups) <= MAX_GROUPS * len(kinds)
    assert len(json.dumps(summary)) < 200 * (MAX_GROUPS * len(kinds) + 1)
    assert sum(group["tasks"] for group in groups) == len(tasks)
    for kind in kinds:
        of_kind = [group for group in groups if group["kind"] == kind]
        ends = [0, *(group["last"] for group in of_kind)]
        assert [group["first"] for group in of_kind] == ends[:-1]
        done = [task for task in tasks if task.kind == kind]
        assert sum(group["bytes_read"] for group in of_kind) == sum(t.bytes_read for t in done)
        assert sum(group["retries"] for group in of_kind) == sum(task.retries for task in done)
        assert max(group["seconds"] for group in of_kind) == max(task.seconds for task in done)
    if len(tasks) <= MAX_GROUPS:
        assert all(group["tasks"] == 1 for group in groups)
