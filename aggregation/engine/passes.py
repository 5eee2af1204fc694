"""Passes over the updates of a combination: the same range of all of them, chunk by chunk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from aggregation.engine import arithmetic
from aggregation.engine.arithmetic import BadValue
from aggregation.engine.blocks import BLOCKS_IN_FLIGHT, Block, BlockOnDemand, Slice
from aggregation.engine.chunks import chunk_elements, cut_again, cuts, rows_on_demand
from aggregation.engine.plan import Combination, Resources
from aggregation.engine.ranges import CELL
from aggregation.engine.reader import BlockReader
from aggregation.engine.state import OptimizerState
from aggregation.errors import InvalidWeights, OutOfTime
from aggregation.weights import Weights

#: Elements that are combined at once. A float64 row of them stays in cache, and they are so many that
#: neither numpy's overhead for an operation counts, nor the threads' turns at the GIL between two
#: operations: with half as many, a mean used a fifth more processor time.
SLICE = 32 << 10

#: The most elements of each update that a thread reads at once. With fewer, the threads wait for the
#: interpreter lock more often: with a third, a mean took a third longer on a busy machine.
PIECE = 96 << 10

#: The most files that are held open; processes may open 1024 on most systems. Others are opened for
#: each read.
MAX_OPEN_FILES = 256

T = TypeVar("T")
U = TypeVar("U")


class BlockResult(NamedTuple, Generic[T]):
    """The results for the slices of a block of ``nbytes`` that ends before element ``stop``."""

    stop: int
    nbytes: int
    unreadable: dict[int, str]
    of_slices: Iterable[T]


class Passes:
    """The passes over the updates of one combination.

    Parameters
    ----------
    work : Combination
    resources : Resources
    stack : ExitStack
        Its exit ends the threads.
    out_of_time : callable
        Returns whether the time is up; called after every chunk.
    on_bytes : callable
        Called after every chunk with the number of bytes that were read for it.

    Attributes
    ----------
    work, resources
    workers : ThreadPoolExecutor
        For arithmetic.
    bytes_read : int
    """

    def __init__(
        self,
        work: Combination,
        resources: Resources,
        stack: ExitStack,
        out_of_time: Callable[[], bool],
        on_bytes: Callable[[int], None],
    ) -> None:
        self.work = work
        self._files = stack.enter_context(ExitStack())  # Closed after the threads have ended.
        self._held_open: dict[Weights, Weights] = {}
        self.workers = stack.enter_context(ThreadPoolExecutor(resources.workers, "combine"))
        self._readers = stack.enter_context(ThreadPoolExecutor(resources.readers, "read"))
        self.resources = resources
        self._out_of_time = out_of_time
        self._on_bytes = on_bytes
        self.bytes_read = 0

    def _blocks(
        self,
        reader: BlockReader,
        members: Sequence[int],
        start: int,
        stop: int,
        ends: Sequence[int],
        at_least: int = 1,
    ) -> Iterator[Block]:
        layout, memory = self.work.layout, self.resources.memory_bytes
        chunk = chunk_elements(
            layout, len(reader), memory, at_least, BLOCKS_IN_FLIGHT, reader.state
        )
        ranges = cuts(start, stop, ends, chunk)
        threads = self._readers, self.resources.readers
        for block in reader.ahead(ranges, chunk * layout.itemsize, *threads):
            if block.stop == stop:
                reader.check(block.unreadable)
            _check_parent_read(block, members)
            yield block
            self._count(block)

    def each(
        self,
        function: Callable[[Slice], T],
        members: Sequence[int],
        start: int,
        stop: int,
        ends: Sequence[int],
        *,
        with_parent: bool,
    ) -> Iterator[BlockResult[T]]:
        """Yield a function's results for the slices of the elements from ``start`` up to ``stop``.

        If reading takes hardly longer than copying, the thread that runs the function also reads the
        slice: a handover from another thread takes longer, and the slice would leave the cache. If the
        server optimizer has a state, the slices hold it.

        Parameters
        ----------
        function : callable
            Run by the workers.
        members : sequence of int
            Positions of updates; a slice has a row for each.
        start, stop : int
        ends : sequence of int
            The elements before which the parts end; no slice crosses one.
        with_parent : bool
            Whether the parent is one more row, the last.
        """
        reader = self._reader(members, with_parent, self.work.state)
        if not reader.local:
            for block in self._blocks(reader, members, start, stop, ends):
                yield _result(block, self.workers.map(function, block.slices(SLICE)))
            return
        linear = self.work.rule.linear
        chunk = self._fitting(reader, PIECE if linear else SLICE)
        ranges = cuts(start, stop, ends, chunk)
        if linear:
            rows = rows_on_demand(self.work.layout, takes_steps=self.work.takes_steps)
            larger = cuts(start, stop, ends, self._fitting(reader, PIECE, rows=rows))
            ranges = cut_again(larger, chunk, unless=reader.is_read_on_demand)
        yield from self._each_here(reader, function, members, ranges, stop, SLICE, on_demand=linear)

    def each_on_grid(
        self,
        function: Callable[[Slice], T],
        members: Sequence[int],
        start: int,
        stop: int,
        ends: Sequence[int],
        elements: int,
        at_once: int,
        *,
        with_parent: bool,
    ) -> Iterator[BlockResult[T]]:
        """Yield a function's results for slices of at most ``elements`` elements, cut on the grid of cells.

        The results for the slices of a block can be iterated over once, so that few of them are alive.

        Parameters
        ----------
        function, members, start, stop, ends, with_parent
            As for `each`.
        elements, at_once : int
            Multiples of `CELL`. A thread that also reads takes at most ``at_once`` elements, and all
            results for them are alive.
        """
        reader = self._reader(members, with_parent)
        if not reader.local:
            for block in self._blocks(reader, members, start, stop, ends, at_least=CELL):
                results = self.ahead(function, block.slices(elements))
                yield BlockResult(block.stop, block.nbytes, block.unreadable, results)
            return
        chunk = self._fitting(reader, min(PIECE, at_once), at_least=CELL)
        ranges = cuts(start, stop, ends, chunk)
        yield from self._each_here(
            reader, function, members, ranges, stop, elements, on_demand=False
        )

    def _fitting(
        self, reader: BlockReader, elements: int, at_least: int = 1, rows: int | None = None
    ) -> int:
        """Return how many elements a thread reads at once: as many as fit, but not more than these.

        ``rows`` rows are in memory at once, by default and at most all.
        """
        pieces = max(BLOCKS_IN_FLIGHT, self.resources.workers)
        layout, memory = self.work.layout, self.resources.memory_bytes
        rows = min(rows or len(reader), len(reader))
        return min(elements, chunk_elements(layout, rows, memory, at_least, pieces, reader.state))

    def _each_here(
        self,
        reader: BlockReader,
        function: Callable[[Slice], T],
        members: Sequence[int],
        ranges: Iterable[tuple[int, int]],
        stop: int,
        elements: int,
        *,
        on_demand: bool,
    ) -> Iterator[BlockResult[T]]:
        """Yield a function's results for ranges up to ``stop``, read by the thread that runs it."""

        def read_and_run(cut: tuple[int, int]) -> BlockResult[T]:
            block = reader.now(*cut, on_demand=on_demand)
            return _result(block, map(function, block.slices(elements)))

        for result in self.ahead(read_and_run, ranges):
            if result.stop == stop:
                reader.check(result.unreadable)
            _check_parent_read(result, members)
            yield result
            self._count(result)

    def ahead(self, function: Callable[[U], T], items: Iterable[U]) -> Iterator[T]:
        """Map a function over items by the workers, at most one item for each worker ahead.

        Unlike `ThreadPoolExecutor.map`, it keeps only so many results alive.
        """
        pending: deque[Future[T]] = deque()
        for item in items:
            pending.append(self.workers.submit(function, item))
            if len(pending) > self.resources.workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def check_parent(self, piece: Slice) -> None:
        """Raise `InvalidWeights` if the parent's values in a slice, or its state, are not finite."""
        if self.work.state:  # Read again: the slice's may have been overwritten by the new one.
            state = self.work.state.read(piece.start, piece.start + piece.rows.shape[1])
            for row in np.flatnonzero(~np.isfinite(state).all(axis=1)):
                where = self.work.layout.locate(piece.start + int(row))
                raise InvalidWeights(f"the optimizer's state is not finite in {where}")
        if piece.parent is None:
            return
        for value in arithmetic.bad_values(piece.parent[None, :]):
            where = self.work.layout.locate(piece.start + value.column)
            raise InvalidWeights(f"the parent has {value.what} in {where}")

    def with_parent(self, piece: Slice) -> Slice:
        """Return a slice with the parent's values, which are read if its block does not hold them."""
        if piece.parent is not None:
            return piece
        reader = self._reader((), with_parent=True)
        block = reader.now(piece.start, piece.start + piece.rows.shape[1], on_demand=False)
        reader.check(block.unreadable)
        _check_parent_read(block, ())
        return piece._replace(parent=np.concatenate([each.parent for each in block.slices(SLICE)]))

    def describe(
        self, values: Iterable[BadValue], members: Sequence[int], start: int
    ) -> dict[int, str]:
        """Return the reasons for the bad values of a slice from element ``start``, by position."""
        locate = self.work.layout.locate
        return {members[v.row]: f"{v.what} in {locate(start + v.column)}" for v in values}

    def check_time(self, block: Block | BlockResult[T]) -> None:
        """Raise `OutOfTime` if the time is up after a block."""
        if self._out_of_time():
            raise OutOfTime(f"stopped at element {block.stop} of {self.work.layout.size}")

    def _reader(
        self, members: Sequence[int], with_parent: bool, state: OptimizerState | None = None
    ) -> BlockReader:
        rows = self.work.rows
        updates = [self._opened(rows[member]) for member in members]
        parent = self._opened(self.work.parent) if with_parent and self.work.parent else None
        return BlockReader(self.work.policy_map, updates, parent, state)

    def _opened(self, weights: Weights) -> Weights:
        """Return the same weights with their file held open, unless too many files are."""
        if weights not in self._held_open and len(self._held_open) < MAX_OPEN_FILES:
            self._held_open[weights] = weights.held_open(self._files)
        return self._held_open.get(weights, weights)

    def _count(self, block: Block | BlockResult[T]) -> None:
        self.bytes_read += block.nbytes
        self._on_bytes(block.nbytes)


def _result(block: Block | BlockOnDemand, of_slices: Iterable[T]) -> BlockResult[T]:
    results = list(of_slices)  # This reads rows on demand, and so fills `unreadable`.
    return BlockResult(block.stop, block.nbytes, block.unreadable, results)


def _check_parent_read(
    block: Block | BlockOnDemand | BlockResult[T], members: Sequence[int]
) -> None:
    """Raise if the parent, whose row follows the members', could not be read."""
    if len(members) in block.unreadable:
        reason = block.unreadable[len(members)]
        raise InvalidWeights(f"the parent cannot be read: {reason}")
