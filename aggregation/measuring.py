"""What a rule wants to know of the updates before it selects: their norms, or their inner products."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum

import numpy as np

from aggregation import arithmetic
from aggregation.blocks import Block, Slice, grid
from aggregation.combination import Combination
from aggregation.errors import UpdatesRejected
from aggregation.passes import CELL, SLICE, Passes
from aggregation.rules import Selection, Statistics
from aggregation.rules.base import Float64s, Numbers

#: Updates closer to each other than this share of their squared distances from the centre make the
#: centre a bad one: their own distances lose digits.
BUNCHED = 2.0**-16

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


def select(passes: Passes) -> tuple[Selection, Sequence[float] | None]:
    """Let the rule decide, after measuring what it needs to know.

    Returns
    -------
    selection : Selection
    norms : tuple of float, optional
        See `aggregation.combination.Combined`.
    """
    rule, centre = passes.work.rule, usual_centre(passes.work)
    counts = np.asarray(passes.work.num_examples, np.float64)
    if rule.needs_gram:
        statistics = Statistics(counts, gram=measured(passes, arithmetic.inner_products, centre))
    elif rule.needs_norms:
        statistics = Statistics(counts, squares=measured(passes, arithmetic.squared_norms, centre))
    else:
        return rule.select(Statistics(counts)), None
    norms = np.sqrt(statistics.squared_norms).tolist()
    may_move = rule.needs_gram and not rule.on_differences and centre is not Centre.MEDIAN
    if may_move and _are_bunched(statistics):
        gram = measured(passes, arithmetic.inner_products, Centre.MEDIAN)
        statistics = Statistics(counts, gram=gram)
    return rule.select(statistics), norms


def usual_centre(work: Combination) -> Centre:
    """The parent, if there is one; it is the origin of updates that are differences."""
    if work.differences:
        return Centre.ORIGIN
    return Centre.MEDIAN if work.parent is None else Centre.PARENT


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is rejected, not warned of
def measured(passes: Passes, products: Products, centre: Centre) -> Float64s:
    """Products of the updates' differences from the centre, over the whole model.

    Raises
    ------
    UpdatesRejected
        If values are not finite, or too large for it.
    """
    members = range(len(passes.work.updates))
    total = products(np.zeros((len(members), 0)))
    bad: dict[int, str] = {}
    for block in passes.blocks(members, 0, with_parent=centre is Centre.PARENT, on_grid=True):
        if not bad and not block.unreadable:
            total = sum(_on_cells(passes, block, products, centre), start=total)
        # What is not finite shows in the products: where they are, nothing need be looked for.
        if bad or block.unreadable or not np.isfinite(_squares(total)).all():
            bad = passes.scan(block, members) | bad
        passes.check_time(block)
    bad = bad or {
        int(row): "values so large that their squares overflow float64"
        for row in np.flatnonzero(~np.isfinite(_squares(total)))
    }
    if bad:
        raise UpdatesRejected(bad)
    return _rounded(total)


def _squares(products: Float64s) -> Float64s:
    return np.diagonal(products) if products.ndim == 2 else products


def _on_cells(
    passes: Passes, block: Block, products: Products, centre: Centre
) -> Iterator[Float64s]:
    """Products of the differences from the centre over the cells of a block, in their order."""
    n = len(passes.work.updates)

    @np.errstate(over="ignore", invalid="ignore")
    def of_cells(piece: Slice) -> list[Float64s]:
        rows, base = piece.rows[:n], _values_of(centre, piece.rows)
        cells = grid(piece.start, piece.start + len(base), CELL)
        return [products(arithmetic.centred(rows[:, cell], base[cell])) for cell in cells]

    for found in passes.workers.map(of_cells, block.slices(SLICE)):
        yield from found


def _values_of(centre: Centre, rows: Numbers) -> Float64s:
    """The centre of some columns; the parent is their last row."""
    if centre is Centre.MEDIAN:
        return arithmetic.median(rows)
    return rows[-1].astype(np.float64) if centre is Centre.PARENT else np.zeros(rows.shape[1])


def _are_bunched(statistics: Statistics) -> bool:
    """Whether two updates are so close to each other, and so far from the centre, that it should lie
    among them: the distances of such lose to cancellation what `_rounded` leaves of it."""
    norms = statistics.squared_norms
    close = statistics.squared_distances < BUNCHED * (norms[:, None] + norms[None, :])
    return bool(close[~np.eye(len(norms), dtype=bool)].any())


def _rounded(gram: Float64s) -> Float64s:
    """Cut to 40 significant bits, so that a last bit in which two kinds of processor differ does not
    decide between updates, and a scaling factor comes out the same on both."""
    mantissa, exponent = np.frexp(gram)
    rounded = np.ldexp(np.rint(np.ldexp(mantissa, 40)), exponent - 40)
    return np.asarray(rounded, np.float64)
