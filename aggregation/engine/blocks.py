"""Blocks: the same range of the flattened model, of many weights objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aggregation.policies import PolicyMap, Run
from aggregation.rules.base import Float64s, Numbers

#: One block is combined while the next one is read.
BLOCKS_IN_FLIGHT = 2


class RowsOnDemand:
    """Rows of one dtype, a few of which are read when they are requested.

    They overwrite those that were requested before, so that they are still in the processor's cache
    when they are used. Rows can be requested again.

    Parameters
    ----------
    read : callable
        Fills a buffer of bytes with the row of the given number.
    shape : (int, int)
    dtype : dtype
    """

    def __init__(
        self,
        read: Callable[[int, NDArray[np.uint8]], None],
        shape: tuple[int, int],
        dtype: np.dtype[Any],
    ) -> None:
        self._read = read
        self._buffer = np.empty((0, shape[1]), dtype)
        self.shape = shape
        self.dtype = dtype

    def __getitem__(self, rows: slice) -> Numbers:
        numbers = range(self.shape[0])[rows]
        if len(self._buffer) < len(numbers):
            self._buffer = np.empty((len(numbers), self.shape[1]), self.dtype)
        return self._filled(self._buffer[: len(numbers)], numbers)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Numbers:
        return self._filled(np.empty(self.shape, self.dtype), range(self.shape[0]))

    def _filled(self, rows: Numbers, numbers: range) -> Numbers:
        for row, number in zip(rows.view(np.uint8), numbers, strict=True):
            self._read(number, row)
        return rows


class Slice(NamedTuple):
    """Columns of a block from element ``start`` on, all within one run of the model: the rows of the
    updates, and that of the parent and the optimizer's state if they are read."""

    start: int
    rows: Numbers | RowsOnDemand
    parent: Numbers | None
    run: Run
    state: Float64s | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Elements ``start`` to ``stop`` of several weights objects.

    Parameters
    ----------
    start, stop : int
        Range in the flattened model.
    updates : int
        The number of rows that belong to updates. One more row belongs to the parent, if it is read.
    raw : (n_rows, n_bytes) uint8
        The bytes, a row for each object. They are valid until the next block is requested.
    nbytes : int
        The number of bytes that are read for it: fewer than those of ``raw`` from compressed objects.
    unreadable : dict of int to str
        Rows that could not be read, with the reasons. Their bytes are zeros.
    state : (stop - start, slots) float64, optional
        The optimizer's.
    """

    policies: PolicyMap
    start: int
    stop: int
    updates: int
    raw: NDArray[np.uint8]
    nbytes: int
    unreadable: dict[int, str] = field(default_factory=dict)
    state: Float64s | None = None

    def slices(self, elements: int) -> Iterator[Slice]:
        """Cut the block along its columns at multiples of ``elements`` and where a run ends."""
        layout = self.policies.layout
        base = layout.bytes_before(self.start)
        for run in self.policies.runs_between(self.start, self.stop):
            begin = layout.bytes_before(run.start) - base
            for columns in grid(run.start, run.stop, elements):
                end = begin + (columns.stop - columns.start) * run.dtype.itemsize
                rows = self.raw[:, begin:end].view(run.dtype)
                parent = rows[self.updates] if len(rows) > self.updates else None
                start, size = run.start + columns.start, rows.shape[1]
                state = None if self.state is None else self.state[start - self.start :][:size]
                yield Slice(start, rows[: self.updates], parent, run, state)
                begin = end


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockOnDemand:
    """Elements ``start`` to ``stop``, of one run, of objects of which a few are read at a time.

    Parameters
    ----------
    start, stop : int
        Range in the flattened model.
    nbytes : int
        The number of bytes that are read for it.
    rows : RowsOnDemand
    parent : (stop - start,) array, optional
    run : Run
    state : (stop - start, slots) float64, optional
    unreadable : dict of int to str
        Rows that could not be read so far, with the reasons. They are zeros.
    """

    start: int
    stop: int
    nbytes: int
    rows: RowsOnDemand
    parent: Numbers | None
    run: Run
    state: Float64s | None
    unreadable: dict[int, str]

    def slices(self, elements: int) -> Iterator[Slice]:
        """Return the whole block as one slice: smaller reads would take longer."""
        yield Slice(self.start, self.rows, self.parent, self.run, self.state)


def grid(start: int, stop: int, elements: int) -> Iterator[slice]:
    """Cut a range at multiples of ``elements``; the yielded slices count from ``start``."""
    begin = start
    while begin < stop:
        end = min(stop, begin - begin % elements + elements)
        yield slice(begin - start, end - start)
        begin = end
