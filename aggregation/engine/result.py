"""Write a result, and the optimizer's state beside it.

Each is an object of its own, stored part by part. A state may be eight times as large as its model, so that
a part of the result has several parts of the state; or few tensors have a state, so that several parts of
the result have one. Work can be resumed where a part of both ends, which is the end of a `Step`. Steps
follow from the layouts alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from aggregation.engine import ranges
from aggregation.engine.output import PartWriter, Progress, Sink
from aggregation.engine.plan import Combination
from aggregation.engine.ranges import part_ends
from aggregation.engine.state import STATE_FORMAT, OptimizerState, StateMap
from aggregation.formats import encoder_for, encoder_state_at
from aggregation.layout import TensorLayout
from aggregation.rules.base import Float64s, Numbers


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


class StateWriter:
    """Writes the optimizer's state, and remembers its progress at the ends of steps.

    Parameters
    ----------
    state : OptimizerState
    parts : StateParts
    sink : Sink
    pool : Executor
    progress : Progress, optional
        Where to continue.
    disk_bytes : int, optional
    alone : bool
        Whether no other process stores parts of the state.
    """

    def __init__(
        self,
        state: OptimizerState,
        parts: StateParts,
        sink: Sink,
        pool: Executor,
        progress: Progress | None,
        disk_bytes: int | None,
        *,
        alone: bool,
    ) -> None:
        layout = state.map.layout
        self._state = state
        self._parts = parts
        self._alone = alone
        self._at_ends = {progress["next_element"]: progress} if progress else {}
        self._writer = PartWriter(
            layout=layout,
            ends=parts.ends,
            encoder=encoder_for(
                STATE_FORMAT, layout, state.metadata, progress["encoder"] if progress else None
            ),
            sink=sink,
            pool=pool,
            progress=progress,
            checkpoint=self._remember,
            part_bytes=parts.part_bytes,
            disk_bytes=disk_bytes,
        )

    def _remember(self, progress: Progress) -> None:
        self._at_ends[progress["next_element"]] = progress

    def write(self, pieces: Sequence[Float64s]) -> None:
        """Append new states, and store the parts that they fill."""
        writer, ends = self._writer, self._parts.ends
        for values in pieces:
            while len(values):
                end = ends[bisect_right(ends, writer.next_element)]
                first, values = np.split(values, [end - writer.next_element])
                writer.write(writer.next_element + len(first), first.view(np.uint8).data)
                if writer.next_element == ends[-1]:
                    writer.store_last(alone=self._alone)

    def progress_at(self, element: int) -> Progress | None:
        """Return the progress at an element of the model; None unless a step ends there."""
        if element not in self._parts.shared:
            return None
        self._writer.flush()
        position = self._state.map.position(element)
        self._at_ends = {end: saved for end, saved in self._at_ends.items() if end >= position}
        return self._at_ends[position]

    def flush(self) -> None:
        """Wait until the last full part is stored."""
        self._writer.flush()

    def complete(self) -> None:
        """Make the state visible, of which all parts are stored."""
        self._writer.complete()

    def discard(self) -> None:
        """Close the file of an unfinished part."""
        self._writer.discard()


class ResultWriter:
    """Writes the chunks of a result, and those of the optimizer's state.

    Parameters
    ----------
    work : Combination
    sink : Sink
    state_sink : Sink or None
        For the optimizer's state; needed if the combination has one.
    format : str
        Of the result.
    pool : Executor
        Its thread stores.
    part_bytes : int
        Size of the result's parts in bytes of the flattened model.
    disk_bytes : int, optional
        As in `aggregation.engine.plan.Resources`.
    progress, state : Progress, optional
        Where to continue.
    checkpoint : callable
        Called with the progress of both at the ends of steps, once their parts are stored.
    alone : bool
        Whether no other process stores parts of the result.

    Raises
    ------
    AggregationError
        If the format cannot hold the result.
    PartTooLarge
    """

    def __init__(
        self,
        work: Combination,
        sink: Sink,
        state_sink: Sink | None,
        *,
        format: str,
        pool: Executor,
        part_bytes: int,
        disk_bytes: int | None,
        progress: Progress | None = None,
        state: Progress | None = None,
        checkpoint: Callable[[Progress, Progress | None], None] = lambda progress, state: None,
        alone: bool = True,
    ) -> None:
        ends = part_ends(work.layout, part_bytes)
        self._checkpoint = checkpoint
        self._model = PartWriter(
            layout=work.layout,
            ends=ends,
            encoder=encoder_for(
                format, work.layout, work.metadata, progress["encoder"] if progress else None
            ),
            sink=sink,
            pool=pool,
            progress=progress,
            checkpoint=self._save,
            part_bytes=part_bytes,
            disk_bytes=disk_bytes,
        )
        self._state: StateWriter | None = None
        if work.state:
            if state_sink is None:
                raise ValueError(f"{work.optimizer.name} has a state, and there is no sink for it")
            parts = state_parts(ends, work.state.map)
            self._state = StateWriter(
                work.state, parts, state_sink, pool, state, disk_bytes, alone=alone
            )

    @property
    def next_element(self) -> int:
        """The first element of the model that has not been written."""
        return self._model.next_element

    @property
    def ends(self) -> Sequence[int]:
        """The elements of the model before which its parts end."""
        return self._model.ends

    def write(self, stop: int, values: Sequence[Numbers], state: Sequence[Float64s]) -> None:
        """Append the elements from `next_element` to ``stop``; no part of the model ends between them."""
        self._model.write(stop, np.concatenate(values).data)
        if self._state:
            self._state.write(state)

    def _save(self, progress: Progress) -> None:
        if self._state is None:
            self._checkpoint(progress, None)
            return
        state = self._state.progress_at(progress["next_element"])
        if state:
            self._checkpoint(progress, state)

    def flush(self) -> None:
        """Wait until the last full parts are stored, and report the progress."""
        self._model.flush()
        if self._state:
            self._state.flush()

    def store_last(self) -> None:
        """Store the last part of the model; that of the state is stored already."""
        self._model.store_last()
        if self._state:
            self._state.flush()

    def close(self) -> None:
        """Store what is left, and make both objects visible."""
        self.store_last()
        if self._state:
            self._state.complete()
        self._model.complete()

    def discard(self) -> None:
        """Close the files of unfinished parts."""
        self._model.discard()
        if self._state:
            self._state.discard()


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
