"""The chunk engine: combine any number of updates of any size into one aggregate, in flat memory.

The engine never holds a model. For each chunk of the flattened model it reads that range from every
update, ahead of the arithmetic, as a block of shape (n_updates, chunk_elements). The rule turns the
block into the result's chunk, which is stored before the next chunks are known.

The bytes of the result depend on the updates alone, however the work was cut:

- an element's result is computed from its own column, by elementwise operations in a fixed order;
- the Gram matrix is summed over cells of `ranges.CELL` elements that lie on a fixed grid;
- parts end where the layout says, not where a chunk ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aggregation.engine.blocks import Slice
from aggregation.engine.measure import select
from aggregation.engine.outcome import Checkpoint, Combined
from aggregation.engine.output import Progress, Sink
from aggregation.engine.passes import BlockResult, Passes
from aggregation.engine.plan import DEFAULT_RESOURCES, Combination, Resources
from aggregation.engine.ranges import part_bytes_of
from aggregation.engine.result import ResultWriter, check_part_sizes
from aggregation.engine.slices import combine_slice, stretches
from aggregation.engine.steps import BEGINNING, progress_after, steps_of
from aggregation.errors import InvalidWeights, OutOfTime, UpdatesRejected
from aggregation.rules import Selection
from aggregation.rules.base import Float64s


def combine(
    work: Combination,
    sink: Sink,
    *,
    state_sink: Sink | None = None,
    format: str | None = None,
    resources: Resources = DEFAULT_RESOURCES,
    resume: Checkpoint | None = None,
    checkpoint: Callable[[Checkpoint], None] = lambda checkpoint: None,
    out_of_time: Callable[[], bool] = lambda: False,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Combined:
    """Combine the updates and store the result.

    Parameters
    ----------
    work : Combination
    sink : Sink
        For the result; with ``resume``, a sink that continues after the saved state. It is completed
        at the end. After an error, the caller aborts it.
    state_sink : Sink, optional
        Likewise for the optimizer's state; needed if the combination has one (`Combination.state`).
    format : str, optional
        Of the result; by default, the model's.
    resources : Resources
        How the work is done; the result does not depend on them.
    resume : Checkpoint, optional
        The last checkpoint of an earlier call with the same ``work``.
    checkpoint : callable
        Called with the progress after each part of the model that was measured or stored.
    out_of_time : callable
        Called after every chunk; when it returns True, `OutOfTime` is raised.
    on_bytes : callable
        Called after every chunk with the number of bytes that were read for it.

    Returns
    -------
    Combined

    Raises
    ------
    AggregationError
        If the format cannot hold the result, or the disk a part of it; nothing has been read then.
    InvalidWeights
        If the parent cannot be read, or its values are not finite or too large.
    UpdatesRejected
        If updates turned out bad. All updates were read to the end, or as far as there was time, so
        that the reasons name every bad one. Nothing of the result is visible.
    OutOfTime
        If the time was up before the last chunk.
    """
    part_bytes = part_bytes_of(work.layout.nbytes)
    check_part_sizes(work, part_bytes, resources.disk_bytes)
    with ExitStack() as stack:

        def save(progress: Progress, state: Progress | None) -> None:
            saved = selection.to_json()
            checkpoint(
                Checkpoint(
                    measuring=None, norms=norms, selection=saved, progress=progress, state=state
                )
            )

        writer = ResultWriter(
            work,
            sink,
            state_sink,
            format=format or work.model.format,
            pool=stack.enter_context(ThreadPoolExecutor(1, "store")),
            part_bytes=part_bytes,
            disk_bytes=resources.disk_bytes,
            progress=resume["progress"] if resume else None,
            state=resume["state"] if resume else None,
            checkpoint=save,
        )
        stack.callback(writer.discard)
        passes = Passes(work, resources, stack, out_of_time, on_bytes)
        if resume and resume["progress"]:
            selection, norms = Selection.from_json(resume["selection"]), resume["norms"]
        else:
            selection, norms = select(passes, resume, checkpoint)
        _combine_chunks(passes, selection, writer, work.layout.size)
        writer.close()
    selection, norms = work.rule.published(selection, norms)
    return Combined(selection=selection, norms=norms, bytes_read=passes.bytes_read)


def combine_steps(
    work: Combination,
    selection: Selection,
    sink: Sink,
    first: int,
    last: int,
    *,
    part_bytes: int,
    state_sink: Sink | None = None,
    resources: Resources = DEFAULT_RESOURCES,
    out_of_time: Callable[[], bool] = lambda: False,
) -> int:
    """Compute and store some steps of a result whose other steps other processes compute.

    Parameters
    ----------
    work : Combination
        Its model has one of `aggregation.formats.SEEKABLE_FORMATS`.
    selection : Selection
    sink : Sink
        It is not completed.
    first, last : int
        Steps ``first`` up to, not including, ``last``, counted from 0 (`aggregation.engine.steps`).
    part_bytes : int
        Size of a part in bytes of the flattened model; all processes have the same.
    state_sink : Sink, optional
        For the optimizer's state; it is not completed.
    resources, out_of_time
        As for `combine`.

    Returns
    -------
    int
        Bytes that were read.

    Raises
    ------
    UpdatesRejected
        If updates turned out bad within these steps, all of which were read.
    PartTooLarge
    OutOfTime
    """
    steps = steps_of(work, part_bytes)
    progress, state = progress_after(work, steps[first - 1] if first else BEGINNING)
    with ExitStack() as stack:
        passes = Passes(work, resources, stack, out_of_time, lambda count: None)
        writer = ResultWriter(
            work,
            sink,
            state_sink,
            format=work.model.format,
            pool=stack.enter_context(ThreadPoolExecutor(1, "store")),
            part_bytes=part_bytes,
            disk_bytes=resources.disk_bytes,
            progress=progress,
            state=state,
            alone=False,
        )
        stack.callback(writer.discard)
        _combine_chunks(passes, selection, writer, steps[last - 1].element)
        if last < len(steps):
            writer.flush()
        else:
            writer.store_last()
    return passes.bytes_read


def _combine_chunks(passes: Passes, selection: Selection, writer: ResultWriter, stop: int) -> None:
    """Combine the selected updates from the writer's next element up to ``stop``."""
    bad: dict[int, str] = {}
    for block, members in _combined_blocks(passes, selection, writer, stop):
        for piece in block.of_slices:
            bad = piece.bad | bad
        bad |= {members[row]: why for row, why in block.unreadable.items()}
        if not bad:
            values = [piece.values for piece in block.of_slices]
            writer.write(block.stop, values, [piece.state for piece in block.of_slices])
        if block.stop < stop:
            try:
                passes.check_time(block)
            except OutOfTime:
                if bad:
                    break  # Otherwise each attempt would find them again, and none would get further.
                writer.flush()
                raise
    if bad:
        raise _rejection(passes.work, bad)


def _rejection(work: Combination, bad: dict[int, str]) -> UpdatesRejected | InvalidWeights:
    """Return the error for bad rows: updates are rejected, a base is an aggregate of our own."""
    updates = {row: why for row, why in bad.items() if row < len(work.updates)}
    if updates:
        return UpdatesRejected(updates)
    return InvalidWeights(f"the base of an update cannot be used: {next(iter(bad.values()))}")


class StoredSlice(NamedTuple):
    """What is stored of a slice: bytes, and the optimizer's state; and the reasons against updates."""

    values: NDArray[np.uint8]
    state: Float64s
    bad: dict[int, str]


def _combined_blocks(
    passes: Passes, selection: Selection, writer: ResultWriter, stop: int
) -> Iterator[tuple[BlockResult[StoredSlice], Sequence[int]]]:
    """Yield the results for the elements of a range, and the updates that were read for them."""
    work = passes.work
    for stretch in stretches(work, selection, writer.next_element, stop):

        def combine(piece: Slice, members: Sequence[int] = stretch.members) -> StoredSlice:
            result = combine_slice(passes, piece, selection)
            bad = passes.describe(result.bad, members, piece.start)
            state = work.stored_state(piece.start, result.state)
            values = np.require(
                result.values, requirements="O"
            )  # A view would keep the rows alive.
            return StoredSlice(values.view(np.uint8), state, bad)

        for block in passes.each(
            combine,
            stretch.members,
            stretch.start,
            stretch.stop,
            writer.ends,
            with_parent=stretch.with_parent,
        ):
            yield block, stretch.members
