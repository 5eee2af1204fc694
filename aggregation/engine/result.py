"""Write a result, and the optimizer's state beside it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import numpy as np

from aggregation.engine.output import PartWriter, Progress, Sink
from aggregation.engine.parts import check_part_size, disk_shares
from aggregation.engine.plan import Combination
from aggregation.engine.ranges import part_ends
from aggregation.engine.state import STATE_FORMAT, OptimizerState
from aggregation.engine.steps import StateParts, state_parts
from aggregation.formats import encoder_for
from aggregation.rules.base import Float64s, Numbers


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
                writer.write(writer.next_element + len(first), [first.view(np.uint8).data])
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
        disk, *state_disk = disk_shares(part_sizes(work, part_bytes), disk_bytes)
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
            disk_bytes=disk,
        )
        self._state: StateWriter | None = None
        if work.state:
            if state_sink is None:
                raise ValueError(f"{work.optimizer.name} has a state, and there is no sink for it")
            parts = state_parts(ends, work.state.map)
            self._state = StateWriter(
                work.state, parts, state_sink, pool, state, state_disk[0], alone=alone
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
        if (
            self._state
        ):  # First: a part of the model that is stored at once has its state stored as well.
            self._state.write(state)
        self._model.write(stop, (each.data for each in values))

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


def part_sizes(work: Combination, part_bytes: int) -> list[int]:
    """Return the sizes of the parts of a result, and of the optimizer's state if there is one."""
    if work.state is None:
        return [part_bytes]
    ends = part_ends(work.layout, part_bytes)
    return [part_bytes, state_parts(ends, work.state.map).part_bytes]


def check_part_sizes(work: Combination, part_bytes: int, disk_bytes: int | None) -> None:
    """Raise `PartTooLarge` if the disk cannot hold a part of each object that is written."""
    sizes = part_sizes(work, part_bytes)
    for size, share in zip(sizes, disk_shares(sizes, disk_bytes), strict=True):
        check_part_size(size, share)
