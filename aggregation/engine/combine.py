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

import numpy as np
from numpy.typing import NDArray

from aggregation.engine.blocks import Slice
from aggregation.engine.measure import select
from aggregation.engine.output import PartWriter, Progress, Sink
from aggregation.engine.parts import check_part_size
from aggregation.engine.passes import BlockResult, Passes
from aggregation.engine.plan import (
    DEFAULT_RESOURCES,
    Checkpoint,
    Combination,
    Combined,
    Resources,
)
from aggregation.engine.ranges import part_bytes_of, part_ends
from aggregation.engine.slices import combine_slice, stretches
from aggregation.errors import InvalidWeights, OutOfTime, UpdatesRejected
from aggregation.formats import encoder_for, encoder_state_at
from aggregation.rules import Selection


def combine(
    work: Combination,
    sink: Sink,
    *,
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
    progress = resume["progress"] if resume else None
    encoder_state = progress["encoder"] if progress else None
    encoder = encoder_for(format or work.model.format, work.layout, work.metadata, encoder_state)
    part_bytes = part_bytes_of(work.layout.nbytes)
    check_part_size(part_bytes, resources.disk_bytes)
    with ExitStack() as stack:
        passes = Passes(work, resources, stack, out_of_time, on_bytes)
        if resume and progress:
            selection, norms = Selection.from_json(resume["selection"]), resume["norms"]
        else:
            selection, norms = select(passes, resume, checkpoint)

        def save(progress: Progress) -> None:
            saved = selection.to_json()
            checkpoint(Checkpoint(measuring=None, norms=norms, selection=saved, progress=progress))

        writer = PartWriter(
            layout=work.layout,
            encoder=encoder,
            sink=sink,
            pool=stack.enter_context(ThreadPoolExecutor(1, "store")),
            progress=progress,
            checkpoint=save,
            part_bytes=part_bytes,
            disk_bytes=resources.disk_bytes,
        )
        stack.callback(writer.discard)
        _combine_chunks(passes, selection, writer, work.layout.size)
        writer.close()
    return Combined(selection=selection, norms=norms, bytes_read=passes.bytes_read)


def combine_parts(
    work: Combination,
    selection: Selection,
    sink: Sink,
    first: int,
    last: int,
    *,
    part_bytes: int,
    resources: Resources = DEFAULT_RESOURCES,
    out_of_time: Callable[[], bool] = lambda: False,
) -> int:
    """Compute and store some parts of a result whose other parts other processes compute.

    Parameters
    ----------
    work : Combination
        Its model has one of `aggregation.formats.SEEKABLE_FORMATS`.
    selection : Selection
    sink : Sink
        It is not completed.
    first, last : int
        Parts ``first`` up to, not including, ``last``, counted from 0.
    part_bytes : int
        Size of a part in bytes of the flattened model; all processes have the same.
    resources, out_of_time
        As for `combine`.

    Returns
    -------
    int
        Bytes that were read.

    Raises
    ------
    UpdatesRejected
        If updates turned out bad within these parts, all of which were read.
    PartTooLarge
    OutOfTime
    """
    layout, kind = work.layout, work.model.format
    ends = part_ends(layout, part_bytes)
    start = ends[first - 1] if first else 0
    with ExitStack() as stack:
        passes = Passes(work, resources, stack, out_of_time, lambda count: None)
        state = encoder_state_at(kind, layout.bytes_before(start)) if first else None
        progress = (
            Progress(parts=first, next_element=start, encoder=state, sink={}) if state else None
        )
        writer = PartWriter(
            layout=layout,
            encoder=encoder_for(kind, layout, work.metadata, state),
            sink=sink,
            pool=stack.enter_context(ThreadPoolExecutor(1, "store")),
            progress=progress,
            checkpoint=lambda progress: None,
            part_bytes=part_bytes,
            disk_bytes=resources.disk_bytes,
        )
        stack.callback(writer.discard)
        _combine_chunks(passes, selection, writer, ends[last - 1])
        if last < len(ends):
            writer.flush()
        else:
            writer.store_last()
    return passes.bytes_read


def _combine_chunks(passes: Passes, selection: Selection, writer: PartWriter, stop: int) -> None:
    """Combine the selected updates from the writer's next element up to ``stop``."""
    bad: dict[int, str] = {}
    for block, members in _combined_blocks(passes, selection, writer, stop):
        for _, found in block.of_slices:
            bad = found | bad
        bad |= {members[row]: why for row, why in block.unreadable.items()}
        if not bad:
            writer.write(block.stop, np.concatenate([data for data, _ in block.of_slices]).data)
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


def _combined_blocks(
    passes: Passes, selection: Selection, writer: PartWriter, stop: int
) -> Iterator[tuple[BlockResult[tuple[NDArray[np.uint8], dict[int, str]]], Sequence[int]]]:
    """Yield the results from the writer's next element on, and the updates that were read for them."""
    for stretch in stretches(passes.work, selection, writer.next_element, stop):

        def combine(
            piece: Slice, members: Sequence[int] = stretch.members
        ) -> tuple[NDArray[np.uint8], dict[int, str]]:
            stored, bad = combine_slice(passes, piece, selection)
            return stored.view(np.uint8), passes.describe(bad, members, piece.start)

        for block in passes.each(
            combine,
            stretch.members,
            stretch.start,
            stretch.stop,
            writer.ends,
            with_parent=stretch.with_parent,
        ):
            yield block, stretch.members
