"""The steps of a result: where a part of it and a part of the optimizer's state end.

Both are objects of their own, stored part by part. A state may be eight times as large as its model, so
that a part of the result has several parts of the state; or few tensors have a state, so that several
parts of the result have one. Work can be resumed where a part of both ends, which is the end of a `Step`.
Steps follow from the layouts alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aggregation.engine import ranges
from aggregation.engine.output import Progress
from aggregation.engine.plan import Combination
from aggregation.engine.ranges import part_ends
from aggregation.engine.state import STATE_FORMAT, StateMap
from aggregation.formats import encoder_state_at
from aggregation.layout import TensorLayout


@dataclass(frozen=True, kw_only=True)
class Step:
    """The end of a step: work can be resumed after it.

    Parameters
    ----------
    element : int
        The first element after it.
    parts, state_parts : int
        The number of parts of the result, and of the optimizer's state, up to it.
    """

    element: int
    parts: int
    state_parts: int


#: Where the first step begins.
BEGINNING = Step(element=0, parts=0, state_parts=0)


@dataclass(frozen=True, kw_only=True)
class StateParts:
    """Where the parts of a state end.

    Parameters
    ----------
    ends : sequence of int
        The elements of the state before which parts end; the last is the end of the state.
    shared : mapping of int to int
        The elements of the model at which a part of both ends, and the number of the state's parts
        before it.
    part_bytes : int
        The size of a part at most.
    """

    ends: Sequence[int]
    shared: Mapping[int, int]
    part_bytes: int


def steps_of(work: Combination, part_bytes: int) -> list[Step]:
    """Return the ends of the steps of a result whose format has a part wherever the layout says.

    Parameters
    ----------
    work : Combination
    part_bytes : int
        Size of the result's parts in bytes of the flattened model.
    """
    ends = part_ends(work.layout, part_bytes)
    if work.state is None:
        return [Step(element=end, parts=n, state_parts=0) for n, end in enumerate(ends, 1)]
    shared = state_parts(ends, work.state.map).shared
    return [
        Step(element=end, parts=number, state_parts=shared[end])
        for number, end in enumerate(ends, 1)
        if end in shared
    ]


def state_parts(ends: Sequence[int], state: StateMap) -> StateParts:
    """Return where the parts of a state end, given the ends of the model's parts.

    No part but the last is smaller than half of the bytes, which object stores require.
    """
    itemsize, whole = state.layout.itemsize, state.layout.size
    # There may be twice as many parts as the bytes require; half of the bytes are whole elements.
    part_bytes = max(ranges.PART_BYTES, 32 * -(-state.layout.nbytes // (16 * ranges.MAX_PARTS)))
    found: list[int] = []
    shared: dict[int, int] = {}
    start = 0
    for end in ends:
        stop = state.position(end)
        nbytes = (stop - start) * itemsize
        if 2 * nbytes >= part_bytes or (nbytes and stop == whole):
            count = max(1, -(-nbytes // part_bytes))
            bounds = [start + (stop - start) * n // count for n in range(count + 1)]
            found += bounds[1:]
            start = stop
        if start == stop and found:
            shared[end] = len(found)
    return StateParts(ends=found, shared=shared, part_bytes=part_bytes)


def progress_after(work: Combination, step: Step) -> tuple[Progress | None, Progress | None]:
    """Return the progress of a result and of its state after a step, for a process that goes on there.

    The result has one of `aggregation.formats.SEEKABLE_FORMATS`.
    """
    if step == BEGINNING:
        return None, None
    state = work.state
    return _progress_at(work.model.format, step.parts, step.element, work.layout), (
        _progress_at(
            STATE_FORMAT, step.state_parts, state.map.position(step.element), state.map.layout
        )
        if state
        else None
    )


def _progress_at(format: str, parts: int, element: int, layout: TensorLayout) -> Progress:
    encoder = encoder_state_at(format, layout.bytes_before(element))
    return Progress(parts=parts, next_element=element, encoder=encoder, sink={})
