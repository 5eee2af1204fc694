"""How a round is spread over functions: the tasks, and the number of functions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregation.engine.distribution import (
    MAX_TASK_SECONDS,
    MEASURING_SECONDS,
    OVERHEAD_SECONDS,
    Capacity,
    Pieces,
    distribute,
)
from aggregation.engine.ranges import MAX_PARTS, PART_BYTES, part_bytes_of, part_ends
from aggregation.layout import Tensor, TensorLayout

MB = 1_000_000

pieces = st.builds(Pieces, count=st.integers(1, 5000), nbytes=st.integers(1, 10**15))
capacities = st.builds(
    Capacity,
    bytes_per_second=st.sampled_from([1e3, 20e6, 70e6]),
    target_seconds=st.floats(0.001, 600),
    max_functions=st.integers(2, 1000),
)


def finishes_in_time(
    capacity: Capacity, functions: int, combining: Pieces, measuring: Pieces | None
) -> bool:
    overhead, share = OVERHEAD_SECONDS, combining.nbytes / functions
    if measuring:
        overhead += MEASURING_SECONDS
        share += measuring.largest_share(functions)
    reading = share / capacity.bytes_per_second
    return overhead + reading <= capacity.target_seconds * (1 + 1e-9)


@given(capacity=capacities, combining=pieces, measuring=st.none() | pieces)
def test_the_tasks_contain_every_piece_once(
    capacity: Capacity, combining: Pieces, measuring: Pieces | None
) -> None:
    """The tasks of a pass are adjacent ranges from the first piece to the last one."""
    found = distribute(capacity, combining, measuring, at_least=1)
    assert found
    for tasks, each in ((found.combining, combining), (found.measuring, measuring)):
        covered = [index for first, last in tasks for index in range(first, last)]
        assert covered == list(range(each.count if each else 0))
        assert all(first < last for first, last in tasks)


@given(capacity=capacities, combining=pieces)
def test_a_task_is_as_short_as_its_pieces_allow(capacity: Capacity, combining: Pieces) -> None:
    """A task reads for `MAX_TASK_SECONDS` and one piece at most, to fit into an Express workflow."""
    found = distribute(capacity, combining, at_least=1)
    assert found
    a_piece = combining.nbytes / combining.count
    longest = max(last - first for first, last in found.combining) * a_piece
    assert longest <= capacity.bytes_per_second * MAX_TASK_SECONDS + a_piece


@given(capacity=capacities, combining=pieces, measuring=st.none() | pieces)
def test_a_round_has_the_fewest_functions_that_meet_its_target(
    capacity: Capacity, combining: Pieces, measuring: Pieces | None
) -> None:
    """One function fewer would miss the target; if none meet it, all that have something to do work."""
    functions = capacity.functions_for(combining, measuring)
    most = max(combining.count, measuring.count if measuring else 0)
    assert 1 <= functions <= min(capacity.max_functions, most)
    if not finishes_in_time(capacity, functions, combining, measuring):
        assert functions == min(capacity.max_functions, most)
    if functions > 1:
        assert not finishes_in_time(capacity, functions - 1, combining, measuring)


@given(
    nbytes=st.integers(100 * MB, 10**13),
    updates=st.integers(1, 1000),
    functions=st.integers(1, 1000),
)
def test_each_task_has_the_same_number_of_parts(nbytes: int, updates: int, functions: int) -> None:
    """All functions end together; no part is so small that it is joined, or much larger than usual."""
    layout = TensorLayout((Tensor("w", np.dtype("u1"), (nbytes,)),))
    capacity = Capacity(bytes_per_second=70e6, target_seconds=1, max_functions=functions)
    combining = Pieces(count=len(part_ends(layout)), nbytes=updates * nbytes)
    found = distribute(capacity, combining, at_least=1)
    assert found
    evenly, part_bytes = found.with_even_parts(layout)
    sizes = {last - first for first, last in evenly.combining}
    assert len(sizes) == 1
    assert evenly.functions == found.functions
    assert len(part_ends(layout, part_bytes)) == evenly.parts <= MAX_PARTS
    assert part_bytes > PART_BYTES // 2
    assert part_bytes <= 2 * part_bytes_of(nbytes)


@pytest.mark.parametrize(
    ("nbytes", "target", "functions"), [(512 * MB, 20, 11), (512 * MB, 30, 6), (5120 * MB, 60, 27)]
)
def test_twenty_large_updates_are_shared(nbytes: int, target: float, functions: int) -> None:
    """The functions of a round of 20 updates at 70 MB/s, in parts of 12 MiB."""
    parts = Pieces(count=-(-nbytes // (12 << 20)), nbytes=20 * nbytes)
    capacity = Capacity(bytes_per_second=70e6, target_seconds=target, max_functions=1000)
    assert capacity.functions_for(parts) == functions


@pytest.mark.parametrize(
    ("seconds", "max_functions", "several"), [(29, 8, False), (31, 8, True), (31, 1, False)]
)
def test_a_round_within_its_target_needs_one_function(
    seconds: int, max_functions: int, several: bool
) -> None:
    """A round that one function reads within the target stays in one function."""
    capacity = Capacity(bytes_per_second=70e6, target_seconds=30, max_functions=max_functions)
    assert capacity.needs_several(seconds * 70 * MB) is several
