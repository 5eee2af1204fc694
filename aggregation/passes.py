"""Passes over the updates of a combination: the same range of all of them, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from aggregation import arithmetic
from aggregation.arithmetic import BadValue
from aggregation.blocks import BLOCKS_IN_FLIGHT, Block, BlockReader
from aggregation.combination import Combination, Resources
from aggregation.errors import AggregationError, OutOfTime
from aggregation.parts import PART_BYTES, PARTS_IN_FLIGHT, part_ends

#: Elements the Gram matrix takes in at once: the grid on which it is added up.
CELL = 1024

#: Elements combined at once: few enough for a float64 row of them to stay in cache, and so many that
#: neither what numpy takes to begin an operation counts, nor that threads take turns at the GIL
#: between two of them: with half as many, a mean took a fifth more of the processors.
SLICE = 32 * CELL


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
        rows = [self.work.updates[member] for member in members]
        if with_parent and self.work.parent is not None:
            rows.append(self.work.parent)
        chunk = self._chunk_elements(len(rows), CELL if on_grid else 1)
        ends = [layout.size] if on_grid else part_ends(layout)
        reader = BlockReader(layout, rows, self._readers, self._resources.readers)
        for block in reader.blocks(_cuts(start, ends, chunk), chunk * layout.itemsize):
            if with_parent and len(members) in block.unreadable:
                reason = block.unreadable[len(members)]
                raise AggregationError(f"the parent aggregate cannot be read: {reason}")
            yield block
            self.bytes_read += block.raw.size
            self._on_bytes(block.raw.size)

    def _chunk_elements(self, rows: int, at_least: int) -> int:
        layout = self.work.layout
        parts = PARTS_IN_FLIGHT * min(PART_BYTES, layout.nbytes)
        memory = max(self._resources.memory_bytes - parts, self._resources.memory_bytes // 4)
        chunk = max(at_least, memory // (BLOCKS_IN_FLIGHT * rows * layout.itemsize), 1)
        if chunk >= CELL:
            chunk -= chunk % CELL
        return min(chunk, -(-layout.size // CELL) * CELL)

    def scan(self, block: Block, members: Sequence[int]) -> dict[int, str]:
        """Why members cannot be used, as far as this block shows, by their position."""
        bad: dict[int, str] = {}
        for piece in block.slices(SLICE):
            found = arithmetic.bad_values(piece.rows[: len(members)])
            bad = self.described(found, members, piece.start) | bad
        unreadable = block.unreadable.items()
        return bad | {members[row]: why for row, why in unreadable if row < len(members)}

    def described(
        self, values: Iterable[BadValue], members: Sequence[int], start: int
    ) -> dict[int, str]:
        """What is bad in a slice that begins at element ``start``, in words, by the members' positions."""
        locate = self.work.layout.locate
        return {members[v.row]: f"{v.what} in {locate(start + v.column)}" for v in values}

    def check_time(self, block: Block) -> None:
        """Raise `OutOfTime` if the time was up after a block."""
        if self._out_of_time():
            raise OutOfTime(f"stopped at element {block.stop} of {self.work.layout.size}")


def _cuts(start: int, ends: Iterable[int], chunk: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most ``chunk`` elements from ``start`` on, none of which passes one of ``ends``."""
    for end in ends:
        while start < end:
            stop = min(start + chunk, end)
            yield start, stop
            start = stop
