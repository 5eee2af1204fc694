"""Products of the updates' differences from a centre, over segments of the model.

Only floating-point tensors whose policy is ``optimize`` are measured (`aggregation.policies.Run`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum

import numpy as np

from aggregation.engine import arithmetic
from aggregation.engine.blocks import Block, Slice, grid
from aggregation.engine.passes import SLICE, Passes, measured_slices
from aggregation.engine.plan import Combination
from aggregation.engine.ranges import CELL, segment_ends
from aggregation.errors import InvalidWeights, OutOfTime, UpdatesRejected
from aggregation.rules import Rule
from aggregation.rules.base import Float64s, Numbers

#: Bytes of the cells' products that a thread computes at once. For few updates these are many cells,
#: because it takes time to hand work to a thread. For many updates it is one cell, because the
#: product of a cell is as large as the Gram matrix.
PRODUCT_BYTES = 2 << 20

#: Why an update cannot be measured although its values are finite.
OVERSIZED = "values so large that their squares overflow float64"

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
        running = no_products(passes.work.rule, len(passes.work.updates))
    bad: dict[int, str] = {}
    with_parent = centre is Centre.PARENT
    for block in passes.grid_blocks(members, start, stop, ends, with_parent=with_parent):
        if not bad and not block.unreadable:
            _add_cells(running, passes, block, centre)
        # Values that are not finite show in the products; only then is the block searched for them.
        if bad or block.unreadable or not np.isfinite(squares(running)).all():
            bad = passes.scan(block, members) | bad or _oversized(passes, block, running)
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


def segment_ends_of(work: Combination) -> list[int]:
    """Return the elements before which the segments end that are measured for a combination."""
    return segment_ends(work.layout, no_products(work.rule, len(work.updates)).nbytes)


def no_products(rule: Rule, n: int) -> Float64s:
    """Return the products of ``n`` updates over no element: zeros, of shape (n, n) or (n,)."""
    return _products_for(rule)(np.zeros((n, 0)))


def _products_for(rule: Rule) -> Products:
    return arithmetic.inner_products if rule.needs_gram else arithmetic.squared_norms


def squares(products: Float64s) -> Float64s:
    """Return the squared norms that products contain."""
    return np.diagonal(products) if products.ndim == 2 else products


def _oversized(passes: Passes, block: Block, products: Float64s) -> dict[int, str]:
    """Return the updates that are too far from the centre to be measured, with the reasons.

    They are those with the largest values, and others within a factor of two of them.

    Raises
    ------
    InvalidWeights
        If the parent's values are larger than theirs.
    """
    rows = np.flatnonzero(~np.isfinite(squares(products)))
    if not rows.size:
        return {}
    largest, of_parent = passes.largest_values(block)
    if of_parent > largest[rows].max():
        raise InvalidWeights(f"the parent has {OVERSIZED}")
    limit = max(of_parent, largest[rows].max() / 2)
    return {int(row): OVERSIZED for row in rows if largest[row] >= limit}


@np.errstate(over="ignore", invalid="ignore")  # What is not finite is rejected.
def _add_cells(total: Float64s, passes: Passes, block: Block, centre: Centre) -> None:
    """Add the products over the cells of a block to the total.

    The cells are added in order, which makes the sum independent of how the work was cut.
    """
    products = _products_for(passes.work.rule)

    @np.errstate(over="ignore", invalid="ignore")
    def of_cells(cells: Sequence[tuple[Numbers, Float64s]]) -> list[Float64s]:
        return [products(arithmetic.centred(rows, base)) for rows, base in cells]

    for found in passes.ahead(of_cells, _cells(passes, block, centre, _cells_at_once(total))):
        for product in found:
            np.add(total, product, out=total)


def _cells(
    passes: Passes, block: Block, centre: Centre, at_once: int
) -> Iterator[Sequence[tuple[Numbers, Float64s]]]:
    """Yield the rows and the centre of a block's cells, ``at_once`` cells at a time."""

    @np.errstate(over="ignore", invalid="ignore")
    def with_centre(piece: Slice) -> tuple[Numbers, Float64s, int]:
        rows = np.asarray(piece.rows)
        return rows, _centre_of(centre, rows, piece.parent), piece.start

    for rows, base, start in passes.ahead(with_centre, measured_slices(block)):
        cells = list(grid(start, start + len(base), CELL))
        for first in range(0, len(cells), at_once):
            yield [(rows[:, cell], base[cell]) for cell in cells[first : first + at_once]]


def _cells_at_once(product: Float64s) -> int:
    """Return how many cells a thread takes, so that few products of many updates are alive."""
    return min(max(PRODUCT_BYTES // product.nbytes, 1), SLICE // CELL)


def _centre_of(centre: Centre, rows: Numbers, parent: Numbers | None) -> Float64s:
    """Return the values of the centre for some columns."""
    if centre is Centre.MEDIAN:
        return arithmetic.median(rows)
    return np.zeros(rows.shape[1]) if parent is None else parent.astype(np.float64)
