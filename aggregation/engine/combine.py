"""The chunk engine: any number of updates of any size become one aggregate, in flat memory.

The model is never held. For each chunk of the flattened model that range is read from every update,
ahead of the arithmetic, as a block of shape (n_updates, chunk_elements); the rule turns the block into
the result's chunk, which goes to storage before the whole is known.

What makes the bytes of the result a function of the updates alone, however the work was cut:

- an element's result is computed from its own column, by elementwise operations in a fixed order;
- the Gram matrix is added up over cells of `passes.CELL` elements that lie on a fixed grid;
- parts end where the layout says, not where a chunk did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import cast

import numpy as np
from numpy.typing import NDArray

from aggregation.engine import arithmetic
from aggregation.engine.arithmetic import BadValue
from aggregation.engine.blocks import Slice
from aggregation.engine.measure import select
from aggregation.engine.output import PartWriter, Progress, Sink
from aggregation.engine.passes import Passes
from aggregation.engine.plan import (
    DEFAULT_RESOURCES,
    Checkpoint,
    Combination,
    Combined,
    Resources,
)
from aggregation.errors import OutOfTime, UpdatesRejected
from aggregation.formats import encoder_for
from aggregation.rules import Selection
from aggregation.rules.base import Numbers


def combine(
    work: Combination,
    sink: Sink,
    *,
    format: str,
    metadata: Mapping[str, str] | None = None,
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
        For the result; with ``resume``, one that goes on with the state kept there. Completed in the
        end; after an error it is the caller's to abort.
    format, metadata
        Of the result.
    resources : Resources
        Change how the work is done, and nothing of what comes out.
    resume : Checkpoint, optional
        Where an earlier call with the same ``work`` got to.
    checkpoint : callable
        Told how far the work is, after each part of the model that was measured or stored.
    out_of_time : callable
        Asked after every chunk.
    on_bytes : callable
        Told the bytes consumed after every chunk.

    Returns
    -------
    Combined

    Raises
    ------
    UpdatesRejected
        If updates turned out bad. All of them have been read to the end, or as far as there was time,
        so that the reasons name every bad one; nothing of the result is visible.
    OutOfTime
        If the time was up before the last chunk.
    """
    with ExitStack() as stack:
        passes = Passes(work, resources, stack, out_of_time, on_bytes)
        progress = resume["progress"] if resume else None
        if resume and progress:
            selection, norms = Selection.from_json(resume["selection"]), resume["norms"]
        else:
            selection, norms = select(passes, resume, checkpoint)

        def tell(progress: Progress) -> None:
            checkpoint(
                Checkpoint(
                    measuring=None,
                    norms=norms,
                    selection=selection.to_json(),
                    progress=progress,
                )
            )

        writer = PartWriter(
            layout=work.layout,
            encoder=encoder_for(format, work.layout, metadata, progress and progress["encoder"]),
            sink=sink,
            pool=stack.enter_context(ThreadPoolExecutor(1, "store")),
            progress=progress,
            checkpoint=tell,
        )
        _combine_chunks(passes, selection, writer)
        writer.close()
    return Combined(selection=selection, norms=norms, bytes_read=passes.bytes_read)


def _combine_chunks(passes: Passes, selection: Selection, writer: PartWriter) -> None:
    """Combine the selected updates, from where the writer stands to the end."""
    work, members = passes.work, selection.members
    with_parent = work.differences or work.rule.on_differences

    def combine(piece: Slice) -> tuple[NDArray[np.uint8], dict[int, str]]:
        stored, bad = _combine_slice(work, piece, selection)
        return stored.view(np.uint8), passes.described(bad, members, piece.start)

    bad: dict[int, str] = {}
    for block in passes.each(combine, members, writer.next_element, with_parent=with_parent):
        for _, found in block.of_slices:
            bad = found | bad
        bad |= {members[row]: why for row, why in block.unreadable.items()}
        if not bad:
            writer.write(block.stop, np.concatenate([data for data, _ in block.of_slices]).data)
        if block.stop < work.layout.size:
            try:
                passes.check_time(block)
            except OutOfTime:
                if bad:
                    break  # Or, found anew and anew, they would keep a long round from its end.
                writer.flush()
                raise
    if bad:
        raise UpdatesRejected(bad)


def _combine_slice(
    work: Combination, piece: Slice, selection: Selection
) -> tuple[Numbers, list[BadValue]]:
    """The result in the model's dtype, and what in the rows keeps it from being finite."""
    rows, dtype = piece.rows, piece.rows.dtype
    if not work.rule.linear:
        rows = np.asarray(rows)
        bad = arithmetic.bad_values(rows)
        if bad:
            return np.zeros(rows.shape[1], dtype), bad
        rows = arithmetic.as_floats(rows)
    base = None if piece.parent is None else piece.parent.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        # Only a linear rule gets rows on demand, and it takes them.
        block = cast(Numbers, rows)
        combined = work.rule.combine(block, selection, None if work.differences else base)
        if base is not None:
            combined += base
        stored = arithmetic.as_stored(combined, dtype)
    if np.isfinite(arithmetic.as_floats(stored)).all():
        return stored, []
    rows = np.asarray(rows)
    bad = arithmetic.bad_values(rows)
    return stored, bad or arithmetic.overflowing_values(rows, stored, selection.coefficients)
