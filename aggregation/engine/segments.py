"""Products of the updates' differences from a centre, over segments of the model.

Only floating-point tensors whose policy is ``optimize`` are measured (`aggregation.policies.Run`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from itertools import groupby
from typing import NamedTuple

import numpy as np

from aggregation.engine import arithmetic
from aggregation.engine.blocks import Slice, grid
from aggregation.engine.passes import Passes
from aggregation.engine.plan import Combination, Resources
from aggregation.engine.ranges import CELL, segment_ends
from aggregation.errors import InvalidWeights, OutOfTime, UpdatesRejected
from aggregation.rules import Rule
from aggregation.rules.base import Float64s, Numbers

#: Bytes of the products that a thread computes of what it reads at once, or one product if that is
#: larger: the product of a cell is as large as the Gram matrix.
PRODUCT_BYTES = 2 << 20

#: The share of the memory for differences in float64, which all threads have together. For few updates
#: a thread takes several cells at once, because numpy's operations are then long enough for the threads
#: to wait for the interpreter lock less often; for many updates it takes one cell.
DIFFERENCES_SHARE = 8

#: The most cells that a thread takes at once: their differences still fit into its cache.
MAX_CELLS = 8

#: The largest squared norm within a cell. Sums of 16,000 of them are still finite; `rounded_products`
#: refuses others.
MAX_SQUARE = 2.0**1010

#: Why an update cannot be measured although its values are finite.
OVERSIZED = "values so large that sums of their squares overflow float64"

#: `arithmetic.inner_products` or `arithmetic.squared_norms`.
Products = Callable[[Float64s], Float64s]


class Centre(Enum):
    """The point from which the updates' differences are measured.

    It is the ``ORIGIN`` for updates that are differences. The coordinate-wise ``MEDIAN`` lies among
    the majority of the updates, and no minority can move it away.
    """

    PARENT = "parent"
    MEDIAN = "median"
    ORIGIN = "origin"


def measure_segments(
    passes: Passes,
    centre: Centre,
    start: int,
    stop: int,
    running: Float64s | None = None,
    interrupted: Callable[[int, Float64s], None] = lambda next_element, running: None,
) -> Iterator[tuple[int, Float64s]]:
    """Yield the products of the differences from the centre over each segment of a range.

    Parameters
    ----------
    passes, centre
    start, stop : int
        Elements; ``stop`` is the end of a segment.
    running : array, optional
        The products over the beginning of a segment that ``start`` lies in.
    interrupted : callable
        Called with the next element and the products over the unfinished segment, before `OutOfTime`
        is raised.

    Yields
    ------
    end : int
    array of float64
        Shape (n, n) or (n,), valid until the next segment. The segments' products are added in order to
        those of the whole model.

    Raises
    ------
    UpdatesRejected
        If values are not finite, or too large to be squared, after the whole range was read.
    InvalidWeights
        If that is so of the parent's values.
    OutOfTime
    """
    members = range(len(passes.work.updates))
    ends = segment_ends_of(passes.work)
    is_end = set(ends)
    if running is None:
        running = no_products(passes.work.rule, len(members))
    bad: dict[int, str] = {}

    def measure(piece: Slice) -> MeasuredSlice:
        return _measure_slice(passes, piece, centre)

    blocks = passes.each_on_grid(
        measure,
        members,
        start,
        stop,
        ends,
        _elements_at_once(passes.resources, len(members)),
        max(PRODUCT_BYTES // running.nbytes, 1) * CELL,
        with_parent=centre is Centre.PARENT,
    )
    for block in blocks:
        for measured in block.of_slices:
            bad = measured.bad | bad
            _add_in_order(running, measured.products)
        bad |= block.unreadable
        if block.stop in is_end:
            if not bad:
                yield block.stop, running
            running.fill(0)  # Not another matrix: of many updates it is large.
        try:
            passes.check_time(block)
        except OutOfTime:
            if bad:
                break  # Otherwise each attempt would find them again, and none would get further.
            interrupted(block.stop, running)
            raise
    if bad:
        raise UpdatesRejected(bad)


def _elements_at_once(resources: Resources, n: int) -> int:
    """Return of how many elements a thread computes the differences at once: whole cells."""
    memory = resources.memory_bytes // DIFFERENCES_SHARE // resources.workers
    return min(max(memory // (8 * n * CELL), 1), MAX_CELLS) * CELL


def _add_in_order(total: Float64s, products: Sequence[Float64s]) -> None:
    """Add the products of cells to a total, one after the other, however many there are at once.

    ``products`` are arrays of shape (k, n, n) or (k, n).
    """
    for batch in products:
        for product in batch:
            np.add(total, product, out=total)


def segment_ends_of(work: Combination) -> list[int]:
    """Return the elements before which the segments end that are measured for a combination."""
    return segment_ends(work.layout, no_products(work.rule, len(work.updates)).nbytes)


def no_products(rule: Rule, n: int) -> Float64s:
    """Return the products of ``n`` updates over no element: zeros, of shape (n, n) or (n,)."""
    return np.zeros((n, n) if rule.needs_gram else (n,))


def _products_for(rule: Rule) -> Products:
    return arithmetic.inner_products if rule.needs_gram else arithmetic.squared_norms


def squares(products: Float64s) -> Float64s:
    """Return the squared norms that products contain."""
    return np.diagonal(products) if products.ndim == 2 else products


class MeasuredSlice(NamedTuple):
    """The products over the cells of a slice, and the updates that are bad, with the reasons.

    ``products`` are arrays of shape (k, n, n) or (k, n), each for k neighbouring cells.
    """

    products: list[Float64s]
    bad: dict[int, str]


@np.errstate(over="ignore", invalid="ignore")  # What is not finite is rejected.
def _measure_slice(passes: Passes, piece: Slice, centre: Centre) -> MeasuredSlice:
    """Return the products of the differences from the centre over each cell of a slice.

    Values that are not finite show in the products; only then are the cells searched for them.

    Raises
    ------
    InvalidWeights
        If the parent's values are not finite, or larger than those of an update that is too large.
    """
    measured = MeasuredSlice([], {})
    if not piece.run.is_measured:
        return measured
    rows = np.asarray(piece.rows)
    differences = rows.astype(np.float64)
    base = _centre_of(centre, rows, piece.parent)
    if base is not None:
        np.subtract(differences, base, out=differences)
    for cells in _neighbouring_cells(piece.start, piece.start + rows.shape[1]):
        width = cells[0].stop - cells[0].start
        of_cells = differences[:, cells[0].start : cells[-1].stop].reshape(len(rows), -1, width)
        products = _products_for(passes.work.rule)(of_cells.swapaxes(0, 1))
        measured.products.append(products)
        for cell, product in zip(cells, products, strict=True):
            if not (squares(product) <= MAX_SQUARE).all():
                measured.bad.update(_bad_in_cell(passes, piece, cell, product) | measured.bad)
    return measured


def _neighbouring_cells(start: int, stop: int) -> Iterator[list[slice]]:
    """Yield the cells of a range, neighbours of the same width together."""
    cells = grid(start, stop, CELL)
    for _, neighbours in groupby(cells, key=lambda cell: cell.stop - cell.start):
        yield list(neighbours)


def _bad_in_cell(passes: Passes, piece: Slice, cell: slice, product: Float64s) -> dict[int, str]:
    """Return the updates with values in a cell that are not finite, or too large to be measured.

    Too large are those with the largest values, and others within a factor of two of them.
    """
    passes.check_parent(piece)
    rows = np.asarray(piece.rows)[:, cell]
    found = arithmetic.bad_values(rows)
    if found:
        return passes.describe(found, range(len(rows)), piece.start + cell.start)
    largest = np.abs(arithmetic.as_floats(rows)).max(axis=1)
    of_parent = 0.0
    if piece.parent is not None:
        of_parent = float(np.abs(arithmetic.as_floats(piece.parent[cell])).max())
    oversized = np.flatnonzero(~(squares(product) <= MAX_SQUARE))
    if of_parent > largest[oversized].max():
        raise InvalidWeights(f"the parent has {OVERSIZED}")
    limit = max(of_parent, largest[oversized].max() / 2)
    return {int(row): OVERSIZED for row in oversized if largest[row] >= limit}


def _centre_of(centre: Centre, rows: Numbers, parent: Numbers | None) -> Float64s | None:
    """Return the values of the centre for some columns; None for the origin."""
    if centre is Centre.MEDIAN:
        return arithmetic.median(rows)
    return None if parent is None else parent.astype(np.float64)
