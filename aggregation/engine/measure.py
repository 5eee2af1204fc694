"""What a rule wants to know of the updates before it selects: their norms, or their inner products."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from enum import Enum

import numpy as np

from aggregation.engine import arithmetic
from aggregation.engine import output as parts
from aggregation.engine.blocks import Block, Slice, grid
from aggregation.engine.passes import CELL, SLICE, Passes
from aggregation.engine.plan import Checkpoint, Combination, Measuring
from aggregation.errors import OutOfTime, UpdatesRejected
from aggregation.rules import Selection, Statistics
from aggregation.rules.base import Float64s, Numbers

#: Bytes of the cells' products that a thread makes at once: of few updates many cells, since handing
#: a thread its work takes time; of many updates one, since each is as large as the Gram matrix.
PRODUCT_BYTES = 2 << 20

#: Updates closer to each other than this share of their squared distances from the centre make the
#: centre a bad one: their own distances lose digits.
CANCELLATION_RATIO = 2.0**-16

#: `arithmetic.inner_products` or `arithmetic.squared_norms`.
Products = Callable[[Float64s], Float64s]


class Centre(Enum):
    """What the updates' differences are measured from.

    ``ORIGIN`` where they come as differences. The coordinate-wise ``MEDIAN`` is where most of them
    are, and no client can move it away from there.
    """

    PARENT = "parent"
    MEDIAN = "median"
    ORIGIN = "origin"


def select(
    passes: Passes,
    resume: Checkpoint | None = None,
    checkpoint: Callable[[Checkpoint], None] = lambda checkpoint: None,
) -> tuple[Selection, Sequence[float] | None]:
    """Let the rule decide, after measuring what it needs to know.

    Parameters
    ----------
    passes : Passes
    resume : Checkpoint, optional
        Where an earlier call got to.
    checkpoint : callable
        Told after each part of the model how far it is.

    Returns
    -------
    selection : Selection
    norms : tuple of float, optional
        See `aggregation.engine.plan.Combined`.
    """
    rule = passes.work.rule
    counts = np.asarray(passes.work.num_examples, np.float64)
    if not (rule.needs_gram or rule.needs_norms):
        return rule.select(Statistics(counts)), None
    left = resume["measuring"] if resume else None
    norms = resume["norms"] if resume else None

    def tell(measuring: Measuring) -> None:
        checkpoint(
            Checkpoint(measuring=measuring, norms=norms, selection=None, progress=None),
        )

    if norms is None:
        statistics = _first(passes, counts, left, tell)
        norms = np.sqrt(statistics.squared_norms).tolist()
        if not (_may_move(passes.work) and _would_cancel(statistics)):
            return rule.select(statistics), norms
        left = None
        del statistics  # Its matrices are as large as those that come now.
    gram = measured(passes, arithmetic.inner_products, Centre.MEDIAN, left, tell)
    return rule.select(Statistics(counts, gram=gram)), norms


def _first(
    passes: Passes, counts: Float64s, left: Measuring | None, tell: Callable[[Measuring], None]
) -> Statistics:
    """What is measured first; mostly, that is enough."""
    centre = usual_centre(passes.work)
    if passes.work.rule.needs_gram:
        gram = measured(passes, arithmetic.inner_products, centre, left, tell)
        return Statistics(counts, gram=gram)
    squares = measured(passes, arithmetic.squared_norms, centre, left, tell)
    return Statistics(counts, squares=squares)


def _may_move(work: Combination) -> bool:
    """Whether the rule would take distances measured from elsewhere as well."""
    free = work.rule.needs_gram and not work.rule.on_differences
    return free and usual_centre(work) is not Centre.MEDIAN


def usual_centre(work: Combination) -> Centre:
    """The parent, if there is one; it is the origin of updates that are differences."""
    if work.differences:
        return Centre.ORIGIN
    return Centre.MEDIAN if work.parent is None else Centre.PARENT


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is rejected, not warned of
def measured(
    passes: Passes,
    products: Products,
    centre: Centre,
    left: Measuring | None = None,
    tell: Callable[[Measuring], None] = lambda measuring: None,
) -> Float64s:
    """Products of the updates' differences from the centre, over the whole model.

    Raises
    ------
    UpdatesRejected
        If values are not finite, or too large for it.
    OutOfTime
    """
    members = range(len(passes.work.updates))
    start, total = _begin(products(np.zeros((len(members), 0))), left)
    told, bytes_before = start, passes.work.layout.bytes_before
    bad: dict[int, str] = {}
    for block in passes.blocks(members, start, with_parent=centre is Centre.PARENT, on_grid=True):
        if not bad and not block.unreadable:
            _add_cells(total, passes, block, products, centre)
        # What is not finite shows in the products: where they are, nothing need be looked for.
        if bad or block.unreadable or not np.isfinite(_squares(total)).all():
            bad = passes.scan(block, members) | bad
        try:
            passes.check_time(block)
        except OutOfTime:
            if bad:
                break  # Or, found anew and anew, they would keep a long round from its end.
            tell(_kept(block.stop, total))
            raise
        if not bad and bytes_before(block.stop) - bytes_before(told) >= parts.PART_BYTES:
            told = block.stop
            tell(_kept(told, total))
    bad = bad or {
        int(row): "values so large that their squares overflow float64"
        for row in np.flatnonzero(~np.isfinite(_squares(total)))
    }
    if bad:
        raise UpdatesRejected(bad)
    return _rounded(total)


def _begin(nothing: Float64s, left: Measuring | None) -> tuple[int, Float64s]:
    """The first element to take in, and what those before it come to."""
    if left is None:
        return 0, nothing
    products = np.frombuffer(b64decode(left["products"]), "<f8")
    return left["next_element"], products.reshape(nothing.shape).copy()


def _kept(next_element: int, products: Float64s) -> Measuring:
    """For `_begin`: as text that takes half of what JSON's numbers do."""
    data = np.ascontiguousarray(products, "<f8").data
    return Measuring(next_element=next_element, products=b64encode(data).decode())


def _squares(products: Float64s) -> Float64s:
    return np.diagonal(products) if products.ndim == 2 else products


def _cells_at_once(product: Float64s) -> int:
    """How many cells a thread takes, so that only a few products of many updates are alive."""
    return min(max(PRODUCT_BYTES // product.nbytes, 1), SLICE // CELL)


def _add_cells(
    total: Float64s, passes: Passes, block: Block, products: Products, centre: Centre
) -> None:
    """Add to the total the products of the differences from the centre over the cells of a block, one
    after the other: their order is what makes the sum the same however the work was cut."""

    @np.errstate(over="ignore", invalid="ignore")
    def of_cells(cells: Sequence[tuple[Numbers, Float64s]]) -> list[Float64s]:
        return [products(arithmetic.centred(rows, base)) for rows, base in cells]

    for found in passes.ahead(of_cells, _cells(passes, block, centre, _cells_at_once(total))):
        for product in found:
            np.add(total, product, out=total)


def _cells(
    passes: Passes, block: Block, centre: Centre, at_once: int
) -> Iterator[Sequence[tuple[Numbers, Float64s]]]:
    """The rows and the centre of a block's cells, so many of them at once."""

    @np.errstate(over="ignore", invalid="ignore")
    def with_centre(piece: Slice) -> tuple[Numbers, Float64s, int]:
        rows = np.asarray(piece.rows)
        return rows, _values_of(centre, rows, piece.parent), piece.start

    for rows, base, start in passes.ahead(with_centre, block.slices(SLICE)):
        cells = list(grid(start, start + len(base), CELL))
        for first in range(0, len(cells), at_once):
            yield [(rows[:, cell], base[cell]) for cell in cells[first : first + at_once]]


def _values_of(centre: Centre, rows: Numbers, parent: Numbers | None) -> Float64s:
    """The centre of some columns; the parent's are given where it is the centre."""
    if centre is Centre.MEDIAN:
        return arithmetic.median(rows)
    return np.zeros(rows.shape[1]) if parent is None else parent.astype(np.float64)


def _would_cancel(statistics: Statistics) -> bool:
    """Whether two updates are so close to each other, and so far from the centre, that it should lie
    among them: the distances of such lose to cancellation what `_rounded` leaves of it."""
    norms = statistics.squared_norms
    bounds = np.add.outer(norms, norms)
    bounds *= CANCELLATION_RATIO
    close = statistics.squared_distances < bounds
    np.fill_diagonal(close, False)
    return bool(close.any())


def _rounded(gram: Float64s) -> Float64s:
    """Cut to 40 significant bits, so that a last bit in which two kinds of processor differ does not
    decide between updates, and a scaling factor comes out the same on both."""
    mantissa, exponent = np.frexp(gram)
    np.ldexp(mantissa, 40, out=mantissa)
    np.rint(mantissa, out=mantissa)
    exponent -= 40
    return np.asarray(np.ldexp(mantissa, exponent, out=mantissa), np.float64)
