"""The chunk engine: any number of updates of any size become one aggregate, in flat memory.

The model is never held. For each chunk of the flattened model that range is read from every update,
ahead of the arithmetic, as a block of shape (n_updates, chunk_elements); the rule turns the block into
the result's chunk, which goes to storage before the whole is known.

What makes the bytes of the result a function of the updates alone, however the work was cut:

- an element's result is computed from its own column, by elementwise operations in a fixed order;
- the Gram matrix is added up over cells of `CELL` elements that lie on a fixed grid;
- parts end where the layout says, not where a chunk did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from aggregation import arithmetic
from aggregation.arithmetic import BadValue
from aggregation.blocks import BLOCKS_IN_FLIGHT, Block, BlockReader, Slice
from aggregation.errors import (
    AggregationError,
    NotEnoughUpdates,
    OutOfTime,
    RuleError,
    UpdatesRejected,
)
from aggregation.formats import encoder_for
from aggregation.layout import TensorLayout
from aggregation.parts import PART_BYTES, PARTS_IN_FLIGHT, PartWriter, Progress, Sink, part_ends
from aggregation.rules import Rule, Selection, Statistics
from aggregation.rules.base import Float64s, Numbers
from aggregation.weights import Weights

#: Elements the Gram matrix takes in at once: the grid on which it is added up.
CELL = 1024

#: Elements a linear rule combines at once: a float64 row of them and its temporaries stay in cache.
SLICE = 16 * CELL

#: Bytes of a slice for rules that need all rows of it at hand.
SLICE_BYTES = 512 << 10


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a combination may use.

    Parameters
    ----------
    memory_bytes : int
        For blocks and parts. The chunk size follows from it.
    readers : int
        Ranges read at the same time: about the number of cores for files, more where latency counts.
    workers : int
        Threads that do arithmetic.
    """

    memory_bytes: int = 64 << 20
    readers: int = 2
    workers: int = 2


DEFAULT_RESOURCES = Resources()


@dataclass(frozen=True, kw_only=True, eq=False)
class Combination:
    """Everything a result is a function of.

    Parameters
    ----------
    rule : Rule
    layout : TensorLayout
        The model's. Updates and parent agree with it.
    updates : sequence of Weights
        In claim order.
    num_examples : sequence of float
        One for each update, positive.
    parent : Weights, optional
        The aggregate the result succeeds.
    differences : bool
        Whether the updates are differences from the parent, rather than weights.
    """

    rule: Rule
    layout: TensorLayout
    updates: Sequence[Weights]
    num_examples: Sequence[float]
    parent: Weights | None = None
    differences: bool = False

    def __post_init__(self) -> None:
        if self.parent is None and (self.differences or self.rule.on_differences):
            what = (
                "updates that are differences need"
                if self.differences
                else f"{self.rule.name} needs"
            )
            raise RuleError(f"{what} a parent to start from: give the model an initial artifact")
        if len(self.updates) < self.rule.min_updates:
            raise NotEnoughUpdates(
                f"{self.rule.name} needs at least {self.rule.min_updates} updates, "
                f"{len(self.updates)} are there"
            )


@dataclass(frozen=True, kw_only=True)
class Combined:
    """What came of a combination.

    Parameters
    ----------
    selection : Selection
    norms : tuple of float, optional
        Euclidean norm of each update's difference from the parent (or the first update), where the
        rule had them measured.
    bytes_read : int
    """

    selection: Selection
    norms: Sequence[float] | None
    bytes_read: int


class Checkpoint(TypedDict):
    """How far a combination is; JSON-able. Made after each part that was stored."""

    selection: Any
    norms: Sequence[float] | None
    progress: Progress


class Passes:
    """The passes over the updates of one combination.

    Parameters
    ----------
    work : Combination
    resources : Resources
    stack : ExitStack
        Ends the threads.
    out_of_time : callable
        Asked after every chunk.
    on_bytes : callable
        Told the bytes consumed after every chunk.
    """

    def __init__(
        self,
        work: Combination,
        resources: Resources,
        stack: ExitStack,
        out_of_time: Callable[[], bool],
        on_bytes: Callable[[int], None],
    ) -> None:
        self._work = work
        self._resources = resources
        self._readers = stack.enter_context(ThreadPoolExecutor(resources.readers, "read"))
        self._workers = stack.enter_context(ThreadPoolExecutor(resources.workers, "combine"))
        self._out_of_time = out_of_time
        self._on_bytes = on_bytes
        self.bytes_read = 0

    def select(self) -> tuple[Selection, Sequence[float] | None]:
        """Let the rule decide, after measuring what it needs to know.

        Returns
        -------
        selection : Selection
        norms : tuple of float, optional
            See `Combined`.
        """
        counts = np.asarray(self._work.num_examples, np.float64)
        if not self._work.rule.needs_gram:
            return self._work.rule.select(Statistics(counts)), None
        statistics = Statistics(counts, self.gram())
        norms = np.sqrt(statistics.squared_norms)
        return self._work.rule.select(statistics), norms.tolist()

    def combine(self, selection: Selection, writer: PartWriter) -> None:
        """Combine the selected updates, from where the writer stands to the end."""
        work = self._work
        with_parent = work.differences or work.rule.on_differences
        bad: dict[int, str] = {}
        for block in self._blocks(selection.members, with_parent, writer.next_element):
            if not bad and not block.unreadable:
                result = np.empty(block.raw.shape[1], np.uint8)
                bad = self._combine_block(block, selection, with_parent, result)
                if not bad:
                    writer.write(block.stop, result.data)
            if bad or block.unreadable:
                bad |= self._scan(block, selection.members)
            if block.stop < work.layout.size and self._out_of_time():
                writer.flush()
                raise OutOfTime(f"stopped at element {block.stop} of {work.layout.size}")
        if bad:
            raise UpdatesRejected(bad)

    def gram(self) -> Float64s:
        """(n, n) inner products of the updates' differences from one centre: the parent, or without
        one their coordinate-wise median, which no single client can move away from the others."""
        work = self._work
        members = range(len(work.updates))
        with_parent = work.parent is not None and not work.differences
        total = np.zeros((len(members), len(members)))
        bad: dict[int, str] = {}
        for block in self._blocks(members, with_parent, 0, grid=CELL):
            bad |= self._scan(block, members)
            if not bad:
                total = sum(self._on_cells(block, len(members), with_parent), start=total)
            if self._out_of_time():
                raise OutOfTime(f"stopped at element {block.stop} of {work.layout.size}")
        bad = bad or {
            int(row): "values so large that their squares overflow float64"
            for row in np.flatnonzero(~np.isfinite(np.diagonal(total)))
        }
        if bad:
            raise UpdatesRejected(bad)
        return _rounded(total)

    def _blocks(
        self, members: Sequence[int], with_parent: bool, start: int, grid: int | None = None
    ) -> Iterator[Block]:
        layout = self._work.layout
        rows = [self._work.updates[member] for member in members]
        if with_parent and self._work.parent is not None:
            rows.append(self._work.parent)
        chunk = self._chunk_elements(len(rows), grid or 1)
        ends = [layout.size] if grid else part_ends(layout)
        reader = BlockReader(layout, rows, self._readers, self._resources.readers)
        for block in reader.blocks(_cuts(start, ends, chunk), chunk * layout.itemsize):
            if with_parent and len(members) in block.unreadable:
                reason = block.unreadable[len(members)]
                raise AggregationError(f"the parent aggregate cannot be read: {reason}")
            yield block
            self.bytes_read += block.raw.size
            self._on_bytes(block.raw.size)

    def _chunk_elements(self, rows: int, at_least: int) -> int:
        layout = self._work.layout
        parts = PARTS_IN_FLIGHT * min(PART_BYTES, layout.nbytes)
        memory = max(self._resources.memory_bytes - parts, self._resources.memory_bytes // 4)
        chunk = max(at_least, memory // (BLOCKS_IN_FLIGHT * rows * layout.itemsize), 1)
        if chunk >= CELL:
            chunk -= chunk % CELL
        return min(chunk, -(-layout.size // CELL) * CELL)

    def _scan(self, block: Block, members: Sequence[int]) -> dict[int, str]:
        """Why members cannot be used, as far as this block shows, by their position."""
        bad: dict[int, str] = {}
        for piece in block.slices(SLICE):
            found = arithmetic.bad_values(piece.rows[: len(members)])
            bad = self._described(found, members, piece.start) | bad
        unreadable = block.unreadable.items()
        return bad | {members[row]: why for row, why in unreadable if row < len(members)}

    def _described(
        self, values: Iterable[BadValue], members: Sequence[int], start: int
    ) -> dict[int, str]:
        locate = self._work.layout.locate
        return {members[v.row]: f"{v.what} in {locate(start + v.column)}" for v in values}

    def _on_cells(self, block: Block, n: int, with_parent: bool) -> Iterator[Float64s]:
        def product(piece: Slice) -> Float64s:
            rows = piece.rows
            if self._work.differences:
                return arithmetic.inner_products(rows, None)
            if with_parent:
                return arithmetic.inner_products(rows[:n], rows[n])
            return arithmetic.inner_products(rows, arithmetic.median(rows))

        return self._workers.map(product, block.slices(CELL))

    def _combine_block(
        self, block: Block, selection: Selection, with_parent: bool, result: NDArray[np.uint8]
    ) -> dict[int, str]:
        """Write the result's bytes; return why members cannot be used, if any cannot."""
        n = len(selection.members)

        def combine(piece: Slice) -> dict[int, str]:
            parent = piece.rows[n] if with_parent else None
            stored, bad = self._combine_slice(piece.rows[:n], selection, parent)
            result[piece.place] = stored.view(np.uint8)
            return self._described(bad, selection.members, piece.start)

        bad: dict[int, str] = {}
        for found in self._workers.map(combine, block.slices(self._slice_elements(n))):
            bad = found | bad
        return bad

    def _slice_elements(self, rows: int) -> int:
        if self._work.rule.linear:
            return SLICE
        return max(CELL // 8, min(SLICE, SLICE_BYTES // (8 * rows)))

    def _combine_slice(
        self, rows: Numbers, selection: Selection, parent: Numbers | None
    ) -> tuple[Numbers, list[BadValue]]:
        work = self._work
        dtype = rows.dtype
        if not work.rule.linear:
            bad = arithmetic.bad_values(rows)
            if bad:
                return np.zeros(rows.shape[1], dtype), bad
            rows = arithmetic.as_floats(rows)
        base = None if parent is None else parent.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            combined = work.rule.combine(rows, selection, None if work.differences else base)
            if base is not None:
                combined += base
            stored = arithmetic.as_stored(combined, dtype)
        if np.isfinite(arithmetic.as_floats(stored)).all():
            return stored, []
        bad = arithmetic.bad_values(rows)
        return stored, bad or arithmetic.overflowing_values(rows, stored, selection.coefficients)


def _cuts(start: int, ends: Iterable[int], chunk: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most ``chunk`` elements from ``start`` on, none of which passes one of ``ends``."""
    for end in ends:
        while start < end:
            stop = min(start + chunk, end)
            yield start, stop
            start = stop


def _rounded(gram: Float64s) -> Float64s:
    """Cut to 40 significant bits, so that a last bit in which two kinds of processor differ does not
    decide between updates, and a scaling factor comes out the same on both."""
    mantissa, exponent = np.frexp(gram)
    rounded = np.ldexp(np.rint(np.ldexp(mantissa, 40)), exponent - 40)
    return np.asarray(rounded, np.float64)


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
        Told after each stored part how far the work is.
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
        If updates turned out bad. All of them have been read to the end, so that the reasons name
        every bad one; nothing of the result is visible.
    OutOfTime
        If the time was up before the last chunk.
    """
    with ExitStack() as stack:
        passes = Passes(work, resources, stack, out_of_time, on_bytes)
        if resume:
            selection, norms = Selection.from_json(resume["selection"]), resume["norms"]
        else:
            selection, norms = passes.select()
        progress = resume["progress"] if resume else None

        def tell(progress: Progress) -> None:
            checkpoint({"selection": selection.to_json(), "norms": norms, "progress": progress})

        writer = PartWriter(
            layout=work.layout,
            encoder=encoder_for(format, work.layout, metadata, progress and progress["encoder"]),
            sink=sink,
            pool=stack.enter_context(ThreadPoolExecutor(1, "store")),
            progress=progress,
            checkpoint=tell,
        )
        passes.combine(selection, writer)
        writer.close()
    return Combined(selection=selection, norms=norms, bytes_read=passes.bytes_read)
