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
from aggregation.engine.blocks import BLOCKS_IN_FLIGHT, Block, BlockOnDemand, BlockReader, Slice
from aggregation.engine.output import PART_BYTES, PARTS_IN_FLIGHT, part_ends
from aggregation.engine.plan import Combination, Resources
from aggregation.errors import AggregationError, OutOfTime
from aggregation.layout import TensorLayout

#: Elements the Gram matrix takes in at once: the grid on which it is added up.
CELL = 1024

#: Elements combined at once: few enough for a float64 row of them to stay in cache, and so many that
#: neither what numpy takes to begin an operation counts, nor that threads take turns at the GIL
#: between two of them: with half as many, a mean took a fifth more of the processors.
SLICE = 32 * CELL

#: Elements at most that a thread reads and combines on its own, one row after the other: a row, the
#: sum and a term of it stay in cache, and what it takes to open a file hardly counts.
PIECE = 96 * CELL

T = TypeVar("T")
U = TypeVar("U")


class BlockResult(NamedTuple, Generic[T]):
    """What was made of each slice of a block of ``nbytes``, that ends before element ``stop``."""

    stop: int
    nbytes: int
    unreadable: dict[int, str]
    of_slices: list[T]


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

    Attributes
    ----------
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
        self.workers = stack.enter_context(ThreadPoolExecutor(resources.workers, "combine"))
        self._readers = stack.enter_context(ThreadPoolExecutor(resources.readers, "read"))
        self._resources = resources
        self._out_of_time = out_of_time
        self._on_bytes = on_bytes
        self.bytes_read = 0

    def blocks(
        self, members: Sequence[int], start: int, *, with_parent: bool, on_grid: bool = False
    ) -> Iterator[Block]:
        """Blocks of the members' elements from ``start`` on.

        Parameters
        ----------
        members : sequence of int
            Positions of updates, for each of which a block has a row.
        start : int
        with_parent : bool
            Whether the parent is one more row, the last.
        on_grid : bool
            Cut at multiples of `CELL`, rather than where parts of the result end.
        """
        layout = self.work.layout
        reader = self._reader(members, with_parent)
        memory = self._resources.memory_bytes
        chunk = chunk_elements(layout, len(reader), memory, CELL if on_grid else 1)
        cuts = _cuts(start, [layout.size] if on_grid else part_ends(layout), chunk)
        threads = self._readers, self._resources.readers
        for block in reader.ahead(cuts, chunk * layout.itemsize, *threads):
            _check_parent(block, members)
            yield block
            self._count(block)

    def each(
        self,
        function: Callable[[Slice], T],
        members: Sequence[int],
        start: int,
        *,
        with_parent: bool,
    ) -> Iterator[BlockResult[T]]:
        """What a function makes of each slice of the members' elements from ``start`` on.

        Where reading is little more than copying, whoever runs the function reads the slice: to be
        handed it by another thread takes longer, and it comes out of the cache.

        Parameters
        ----------
        function : callable
            Run by the workers.
        members, start, with_parent
            As for `blocks`.
        """
        reader = self._reader(members, with_parent)
        if not reader.local:
            for block in self.blocks(members, start, with_parent=with_parent):
                yield _made(block, self.workers.map(function, block.slices(SLICE)))
            return
        linear = self.work.rule.linear

        def here(cut: tuple[int, int]) -> BlockResult[T]:
            block = reader.now(*cut, on_demand=linear)
            return _made(block, map(function, block.slices(SLICE)))

        pieces = max(BLOCKS_IN_FLIGHT, self._resources.workers)
        memory = self._resources.memory_bytes
        fitting = chunk_elements(self.work.layout, len(reader), memory, 1, pieces)
        chunk = min(fitting, PIECE if linear else SLICE)
        for made in self.ahead(here, _cuts(start, part_ends(self.work.layout), chunk)):
            _check_parent(made, members)
            yield made
            self._count(made)

    def _reader(self, members: Sequence[int], with_parent: bool) -> BlockReader:
        updates = [self.work.updates[member] for member in members]
        return BlockReader(self.work.layout, updates, self.work.parent if with_parent else None)

    def ahead(self, function: Callable[[U], T], items: Iterable[U]) -> Iterator[T]:
        """As `map`, by the workers; the next ones, one for each worker, are begun before a result is
        asked for. No more are, so that only so many results are alive."""
        pending: deque[Future[T]] = deque()
        for item in items:
            pending.append(self.workers.submit(function, item))
            if len(pending) > self._resources.workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _count(self, block: Block | BlockResult[T]) -> None:
        self.bytes_read += block.nbytes
        self._on_bytes(block.nbytes)

    def scan(self, block: Block, members: Sequence[int]) -> dict[int, str]:
        """Why members cannot be used, as far as this block shows, by their position."""
        bad: dict[int, str] = {}
        for piece in block.slices(SLICE):
            found = arithmetic.bad_values(np.asarray(piece.rows))
            bad = self.described(found, members, piece.start) | bad
        return bad | {members[row]: why for row, why in block.unreadable.items()}

    def described(
        self, values: Iterable[BadValue], members: Sequence[int], start: int
    ) -> dict[int, str]:
        """What is bad in a slice that begins at element ``start``, in words, by the members' positions."""
        locate = self.work.layout.locate
        return {members[v.row]: f"{v.what} in {locate(start + v.column)}" for v in values}

    def check_time(self, block: Block | BlockResult[T]) -> None:
        """Raise `OutOfTime` if the time was up after a block."""
        if self._out_of_time():
            raise OutOfTime(f"stopped at element {block.stop} of {self.work.layout.size}")


def _made(block: Block | BlockOnDemand, of_slices: Iterable[T]) -> BlockResult[T]:
    results = list(of_slices)  # Rows on demand are read now.
    return BlockResult(block.stop, block.nbytes, block.unreadable, results)


def _check_parent(block: Block | BlockResult[T], members: Sequence[int]) -> None:
    """Raise if the parent, which is the row after the members', could not be read."""
    if len(members) in block.unreadable:
        reason = block.unreadable[len(members)]
        raise AggregationError(f"the parent aggregate cannot be read: {reason}")


def chunk_elements(
    layout: TensorLayout,
    rows: int,
    memory_bytes: int,
    at_least: int,
    blocks: int = BLOCKS_IN_FLIGHT,
) -> int:
    """Elements of a chunk, of which ``blocks`` blocks of so many rows fit into the memory beside the
    parts of the result; a multiple of `CELL` unless it is smaller."""
    parts = PARTS_IN_FLIGHT * min(PART_BYTES, layout.nbytes)
    memory = max(memory_bytes - parts, memory_bytes // 4)
    chunk = max(at_least, memory // (blocks * rows * layout.itemsize), 1)
    if chunk >= CELL:
        chunk -= chunk % CELL
    return min(chunk, -(-layout.size // CELL) * CELL)


def _cuts(start: int, ends: Iterable[int], chunk: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most ``chunk`` elements from ``start`` on, none of which passes one of ``ends``."""
    for end in ends:
        while start < end:
            stop = min(start + chunk, end)
            yield start, stop
            start = stop
