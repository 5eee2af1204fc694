"""Reading the same range of the flattened model from many weights objects, ahead of its use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from itertools import cycle
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aggregation.errors import UpdateRejected
from aggregation.layout import TensorLayout
from aggregation.rules.base import Numbers
from aggregation.weights import Weights

#: One block is being combined while the next one is being read.
BLOCKS_IN_FLIGHT = 2


class Slice(NamedTuple):
    """Some columns of a block, all of one dtype: ``rows`` from element ``start`` on."""

    start: int
    place: slice
    rows: Numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Elements ``start`` to ``stop`` of several weights objects.

    Parameters
    ----------
    start, stop : int
        Range in the flattened model.
    raw : (n_rows, n_bytes) uint8
        The bytes, a row for each object; valid until the next block is asked for.
    unreadable : dict of int to str
        Rows that could not be read, with the reason. Their bytes mean nothing.
    """

    layout: TensorLayout
    start: int
    stop: int
    raw: NDArray[np.uint8]
    unreadable: dict[int, str] = field(default_factory=dict)

    def slices(self, elements: int) -> Iterator[Slice]:
        """The block cut along its columns, at multiples of ``elements`` and where the dtype changes."""
        base = self.layout.bytes_before(self.start)
        for start, run_stop, dtype in self.layout.runs_between(self.start, self.stop):
            begin = self.layout.bytes_before(start) - base
            for columns in grid(start, run_stop, elements):
                end = begin + (columns.stop - columns.start) * dtype.itemsize
                place = slice(begin, end)
                yield Slice(start + columns.start, place, self.raw[:, place].view(dtype))
                begin = end


def grid(start: int, stop: int, elements: int) -> Iterator[slice]:
    """The range cut at multiples of ``elements``; the pieces are counted from ``start``."""
    begin = start
    while begin < stop:
        end = min(stop, begin - begin % elements + elements)
        yield slice(begin - start, end - start)
        begin = end


class BlockReader:
    """Reads blocks of a fixed set of weights objects, one block ahead.

    Parameters
    ----------
    layout : TensorLayout
        The model's; all objects agree with it.
    rows : sequence of Weights
    pool : Executor
        Its threads read.
    tasks : int
        Into how many tasks the rows of a block are divided.
    """

    def __init__(
        self, layout: TensorLayout, rows: Sequence[Weights], pool: Executor, tasks: int
    ) -> None:
        self._layout = layout
        self._rows = rows
        self._pool = pool
        self._shares = [range(first, len(rows), tasks) for first in range(min(tasks, len(rows)))]
        self._unreadable: dict[int, str] = {}

    def blocks(self, cuts: Iterable[tuple[int, int]], row_bytes: int) -> Iterator[Block]:
        """The blocks for these ranges, none of which takes more than ``row_bytes`` in a row."""
        buffers = cycle(
            np.empty((len(self._rows), row_bytes), np.uint8) for _ in range(BLOCKS_IN_FLIGHT)
        )
        pending: tuple[Block, list[Future[None]]] | None = None
        for (start, stop), buffer in zip(cuts, buffers, strict=False):
            width = self._layout.bytes_before(stop) - self._layout.bytes_before(start)
            block = Block(layout=self._layout, start=start, stop=stop, raw=buffer[:, :width])
            ahead = block, [self._pool.submit(self._read, block, share) for share in self._shares]
            if pending:
                yield self._finished(*pending)
            pending = ahead
        if pending:
            yield self._finished(*pending)

    def _finished(self, block: Block, reads: list[Future[None]]) -> Block:
        for read in reads:
            read.result()
        block.unreadable.update(self._unreadable)
        return block

    def _read(self, block: Block, share: range) -> None:
        begin = self._layout.bytes_before(block.start)
        for row in share:
            if row in self._unreadable:
                continue
            try:
                self._rows[row].read_into(self._layout, begin, memoryview(block.raw[row]))
            except UpdateRejected as error:
                self._unreadable[row] = str(error)
