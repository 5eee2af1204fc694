"""Weighted sums of rows, whose bits do not depend on how the columns are cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aggregation.rules.selection import Float64s

Numbers = NDArray[Any]


class Rows(Protocol):
    """Rows of numbers of one dtype; some of them are valid until the next ones are requested.

    An array of shape (n, c) qualifies, and so do rows that are read on demand.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, c)"""

    def __getitem__(self, rows: slice, /) -> Numbers: ...


#: Rows that `weighted_sum` adds before it adds their sum to those of other rows. Changing it changes
#: bits of results. So many rows of a chunk are in memory, and one numpy operation adds them.
GROUP = 16


def weighted_sum(
    block: Rows, coefficients: Sequence[float], centre: Float64s | None = None
) -> Float64s:
    """Return ``sum_i coefficients[i] * (block[i] - centre)``, added in float64.

    The rows of each group of `GROUP` are added from first to last, and so are the groups. The bits of an
    element must not depend on the neighbouring elements: nothing is left to BLAS.

    Parameters
    ----------
    block : Rows
        (n, c), of any numeric dtype, n at least 1.
    coefficients : n floats
    centre : (c,) float64, optional

    Returns
    -------
    (c,) float64
    """
    # One allocation, since glibc returns freed memory to the kernel above a threshold and allocates it
    # again for the next block. With two allocations a mean had nearly twice the page faults.
    total, of_group, term = np.empty((3, block.shape[1]))
    for first in range(0, len(coefficients), GROUP):
        group = slice(first, first + GROUP)
        out = of_group if first else total
        _add_rows(block[group], np.array(coefficients[group]), centre, out, term)
        if first:
            np.add(total, of_group, out=total)
    return total


def _add_rows(
    rows: Numbers, coefficients: Float64s, centre: Float64s | None, out: Float64s, term: Float64s
) -> None:
    """Set ``out`` to the weighted sum of rows, added from first to last; ``term`` is overwritten.

    The sum of several rows is never -0.0.
    """
    if centre is None and _is_exact(rows, coefficients):
        np.einsum("ij,i->j", rows, coefficients, out=out, dtype=np.float64)
        return
    for number, (row, coefficient) in enumerate(zip(rows, coefficients.tolist(), strict=True)):
        product = term if number else out
        np.copyto(product, row)
        if centre is not None:
            np.subtract(product, centre, out=product)
        if coefficient != 1.0:
            np.multiply(product, coefficient, out=product)
        if number:
            np.add(out, product, out=out)
    if len(rows) > 1:
        np.add(out, 0.0, out=out)


def _is_exact(rows: Numbers, coefficients: Float64s) -> bool:
    """Return whether `numpy.einsum` gives the bits of the sum of rows that are added in order.

    It adds rows in order if each lies in one piece of memory and there are several columns, but it may
    multiply and add in one operation, with one rounding. That makes no difference if products are exact:
    24 bits times 24 bits are.
    """
    in_rows = min(rows.shape) > 1 and rows.strides[0] > rows.strides[1] == rows.itemsize
    if not in_rows or rows.dtype not in (np.float16, np.float32):
        return False
    with np.errstate(over="ignore", under="ignore"):
        return bool((coefficients.astype(np.float32) == coefficients).all())


def inner_product(left: Float64s, right: Float64s) -> Float64s:
    """Return the inner products of vectors, or of the rows of a matrix with a vector.

    numpy rounds each product and adds them in the same order on every processor. BLAS (``left @ right``)
    does not, and unlike the products of updates these are not rounded to fewer bits afterwards.

    Parameters
    ----------
    left : (..., n) float64
    right : (n,) float64

    Returns
    -------
    (...,) float64
    """
    return np.asarray(np.sum(left * right, axis=-1), np.float64)
