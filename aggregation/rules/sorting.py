"""Sorting the columns of a block with a network of elementwise minima and maxima.

A comparator moves the smaller values of two rows into one and the larger into the other: two numpy
operations on whole rows, several times as fast as sorting columns one by one. Batcher, *Sorting
networks and their applications*, 1968 (odd-even merge sort).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from aggregation.rules.base import Numbers

#: With more rows than this, columns are sorted one by one, since the network grows as n log(n)^2.
MAX_NETWORK_ROWS = 512


class Comparator(NamedTuple):
    """Moves the smaller of two rows' values into ``low`` and the larger into ``high``.

    A row that no later step reads is not computed.
    """

    low: int
    high: int
    needs_low: bool
    needs_high: bool


def ordered_rows(block: Numbers, first: int, stop: int) -> Sequence[Numbers]:
    """Return rows with each column's values of the ranks ``first`` to ``stop - 1``, in order.

    Parameters
    ----------
    block : (n, c) float32 or float64
        Without NaN. Overwritten.

    Returns
    -------
    sequence of (c,) arrays
        In the block's dtype. Which zero comes first, -0.0 or 0.0, is not defined.
    """
    if len(block) > MAX_NETWORK_ROWS:
        return list(np.sort(block.T, axis=1).T[first:stop])
    rows: list[Numbers] = list(block)
    spare = np.empty_like(rows[0])
    for low, high, needs_low, needs_high in network(len(rows), first, stop):
        if not needs_high:
            np.minimum(rows[low], rows[high], out=rows[low])
        elif not needs_low:
            np.maximum(rows[low], rows[high], out=rows[high])
        else:
            np.minimum(rows[low], rows[high], out=spare)
            np.maximum(rows[low], rows[high], out=rows[high])
            rows[low], spare = spare, rows[low]
    return rows[first:stop]


@lru_cache(maxsize=32)
def network(n: int, first: int, stop: int) -> tuple[Comparator, ...]:
    """Return the comparators that move the ranks ``first`` to ``stop - 1`` of ``n`` rows into place.

    They are those of a complete sort, without the ones that the wanted ranks do not depend on.
    """
    needed = set(range(first, stop))
    kept: list[Comparator] = []
    for low, high in reversed(list(_odd_even_merge_sort(n))):
        if low in needed or high in needed:
            kept.append(Comparator(low, high, low in needed, high in needed))
            needed |= {low, high}
    return tuple(reversed(kept))


def _odd_even_merge_sort(n: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs of rows to compare, for any ``n``.

    Knuth, *The Art of Computer Programming*, vol. 3, section 5.2.2, algorithm M (merge exchange).
    """
    bits = max(n - 1, 0).bit_length()
    step = 1 << bits >> 1
    while step:
        distance, offset, span = step, 0, 1 << bits >> 1
        while True:
            for row in range(n - distance):
                if row & step == offset:
                    yield row, row + distance
            if span == step:
                break
            distance, offset, span = span - step, step, span >> 1
        step >>= 1
