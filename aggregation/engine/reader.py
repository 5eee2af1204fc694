"""Read blocks of many weights objects, ahead or where they are combined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from aggregation.engine.blocks import BLOCKS_IN_FLIGHT, Block, BlockOnDemand, RowsOnDemand
from aggregation.engine.state import OptimizerState
from aggregation.errors import UpdateRejected
from aggregation.policies import PolicyMap, Run
from aggregation.rules.base import Float64s
from aggregation.weights import Weights


class BlockReader:
    """Reads blocks of a fixed set of weights objects.

    Parameters
    ----------
    policies : PolicyMap
        Of the model's layout; all objects agree with it.
    updates : sequence of Weights
    parent : Weights, optional
        One more row, the last.
    state : OptimizerState, optional
        Read beside the rows.
    """

    def __init__(
        self,
        policies: PolicyMap,
        updates: Sequence[Weights],
        parent: Weights | None,
        state: OptimizerState | None = None,
    ) -> None:
        self._policies = policies
        self.state = state
        self.layout = layout = policies.layout
        self._updates = len(updates)
        rows = [*updates, *([parent] if parent else [])]
        self._rows = [row.in_order(layout) for row in rows]
        self._compressed = [row for row in self._rows if row.is_compressed]
        self._unreadable: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def local(self) -> bool:
        """Whether all objects are local, so that reading ahead gains nothing."""
        state_is_local = self.state is None or self.state.local
        return state_is_local and all(row.source.local for row in self._rows)

    def ahead(
        self, cuts: Iterable[tuple[int, int]], row_bytes: int, pool: Executor, tasks: int
    ) -> Iterator[Block]:
        """Yield the blocks for these ranges; each is read while the one before it is used.

        Parameters
        ----------
        cuts : iterable of (int, int)
        row_bytes : int
            Length of the longest row.
        pool : Executor
            Its threads read.
        tasks : int
            The number of tasks into which the rows of a block are divided.
        """
        shares = [range(first, len(self), tasks) for first in range(min(tasks, len(self)))]
        buffers = cycle(np.empty((len(self), row_bytes), np.uint8) for _ in range(BLOCKS_IN_FLIGHT))
        pending: tuple[Block, list[Future[None]], Future[Float64s] | None] | None = None
        for (start, stop), buffer in zip(cuts, buffers, strict=False):
            block = self._block(start, stop, buffer[:, : self._width(start, stop)])
            reads = [pool.submit(self._read_share, block, share) for share in shares]
            state = pool.submit(self.state.read, start, stop) if self.state else None
            if pending:
                yield self._finish(*pending)
            pending = block, reads, state
        if pending:
            yield self._finish(*pending)

    def now(self, start: int, stop: int, *, on_demand: bool) -> Block | BlockOnDemand:
        """Return the block for this range, read by the calling thread.

        Parameters
        ----------
        start, stop : int
        on_demand : bool
            Whether the caller needs only a few rows at a time.
        """
        if on_demand and self.is_read_on_demand(start, stop):
            (run,) = self._policies.runs_between(start, stop)
            return self._on_demand(start, stop, run)
        raw = np.empty((len(self), self._width(start, stop)), np.uint8)
        block = self._block(start, stop, raw)
        begin = self.layout.bytes_before(start)
        for row, values in enumerate(raw):
            self._read(begin, row, values, block.unreadable)
        return replace(block, state=self.state.read(start, stop)) if self.state else block

    def is_read_on_demand(self, start: int, stop: int) -> bool:
        """Return whether a range can be read a few rows at a time: whether it is within one run."""
        return len(list(self._policies.runs_between(start, stop))) == 1

    def _on_demand(self, start: int, stop: int, run: Run) -> BlockOnDemand:
        unreadable: dict[int, str] = {}
        begin = self.layout.bytes_before(start)

        def read(row: int, raw: NDArray[np.uint8]) -> None:
            self._read(begin, row, raw, unreadable)

        parent = None
        if len(self) > self._updates:
            parent = np.empty(stop - start, run.dtype)
            read(self._updates, parent.view(np.uint8))
        return BlockOnDemand(
            start=start,
            stop=stop,
            nbytes=self._nbytes(start, stop),
            rows=RowsOnDemand(read, (self._updates, stop - start), run.dtype),
            parent=parent,
            run=run,
            state=self.state.read(start, stop) if self.state else None,
            unreadable=unreadable,
        )

    def check(self, unreadable: dict[int, str]) -> None:
        """Add the rows whose files were changed since they were opened."""
        for row, weights in enumerate(self._rows):
            try:
                weights.check()
            except UpdateRejected as error:
                unreadable[row] = str(error)

    def _width(self, start: int, stop: int) -> int:
        return self.layout.bytes_before(stop) - self.layout.bytes_before(start)

    def _block(self, start: int, stop: int, raw: NDArray[np.uint8]) -> Block:
        return Block(
            policies=self._policies,
            start=start,
            stop=stop,
            updates=self._updates,
            raw=raw,
            nbytes=self._nbytes(start, stop),
        )

    def _nbytes(self, start: int, stop: int) -> int:
        """Return how many bytes are read for a range."""
        of_rows = (len(self) - len(self._compressed)) * self._width(start, stop)
        of_rows += sum(row.nbytes_between(start, stop) for row in self._compressed)
        return of_rows + (self.state.nbytes_between(start, stop) if self.state else 0)

    def _finish(
        self, block: Block, reads: list[Future[None]], state: Future[Float64s] | None
    ) -> Block:
        for read in reads:
            read.result()
        block.unreadable.update(self._unreadable)
        return replace(block, state=state.result()) if state else block

    def _read_share(self, block: Block, share: range) -> None:
        begin = self.layout.bytes_before(block.start)
        for row in share:
            if row in self._unreadable:
                block.raw[row] = 0
            else:
                self._read(begin, row, block.raw[row], self._unreadable)

    def _read(
        self, begin: int, row: int, raw: NDArray[np.uint8], unreadable: dict[int, str]
    ) -> None:
        """Read a row from byte ``begin`` on; if it cannot be read, set zeros and record why."""
        try:
            self._rows[row].read_into(self.layout, begin, raw.data)
        except UpdateRejected as error:
            raw[:] = 0
            unreadable[row] = str(error)
