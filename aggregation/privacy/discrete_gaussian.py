"""A discrete Gaussian with a fixed amount of randomness for each draw, in integers alone.

The distribution on the integers with ``P(k)`` proportional to ``exp(-k**2 / (2 sigma**2))``: Canonne,
Kamath and Steinke, *The Discrete Gaussian for Differential Privacy*, 2020 (arXiv 2004.00010). Its
parameter is fixed, ``sigma**2 = 2**19 (2**32 + 2**16 + 1)``, and the grid is chosen to fit
(`aggregation.privacy.grid`).

A draw is ``2**16 a + 2**8 b + c``, where ``a``, ``b`` and ``c`` are draws with the variance 2**19.
Completing the square gives its probabilities: those of the discrete Gaussian, times a sum over the
integers that is constant up to a share of ``4 exp(-2 pi**2 7.999) < 2**-225`` (the convolution of
Micciancio and Walter, *Gaussian Sampling over the Integers*, CRYPTO 2017).

A draw with the variance 2**19 inverts a table by Walker's alias method. The table has 2**15 values. Each
probability is a multiple of 2**-288 and is computed in integers. The values that the table lacks have a
probability below 2**-373. A number is therefore within a total variation distance of 2**-271.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
Words = NDArray[np.uint32]

#: Draws from the table for one number, the factor between them, and the variance of the table.
LEVELS = 3
FACTOR_BITS = 8
TABLE_VARIANCE_BITS = 19

#: The square of the parameter of the distribution; its variance is the same up to a share of 2**-100.
SIGMA_SQUARED = sum(1 << (TABLE_VARIANCE_BITS + 2 * FACTOR_BITS * level) for level in range(LEVELS))

#: The table has 2**`TABLE_BITS` values around 0. A word of `WORD_BITS` and a tie-breaker decide on a draw.
TABLE_BITS = 15
WORD_BITS = 32
TIE_BYTES = 32

#: No draw is larger in absolute value.
LARGEST = (1 << (TABLE_BITS - 1)) * sum(1 << FACTOR_BITS * level for level in range(LEVELS))

_TOTAL_BITS = WORD_BITS + 8 * TIE_BYTES
_BUCKET_BITS = _TOTAL_BITS - TABLE_BITS

#: Bits after the point of the exponential function. Fewer than 2**30 rounded operations lead to a value.
_PRECISION = _TOTAL_BITS + 96


@dataclass(frozen=True, eq=False)
class Table:
    """Walker's alias table.

    A random number of 288 bits belongs to the bucket of its first 15 bits. It stands for the bucket's own
    value if it is below the bucket's threshold, and otherwise for the bucket's other value.

    Parameters
    ----------
    thresholds : (2**15,) uint32
        The first 32 bits of the thresholds.
    ties : bytes
        The other 256 bits of each, big-endian.
    others : (2**15,) int16
    """

    thresholds: Words
    ties: bytes
    others: NDArray[np.int16]

    def draws(self, words: Words) -> tuple[NDArray[np.int16], NDArray[np.intp]]:
        """Return the values of random numbers by their first 32 bits, and the positions of ties.

        A tie is a number whose first bits are those of its threshold, one of 131,072. The value that is
        returned for it is the other value; `value_of_tie` decides.
        """
        buckets = words >> np.uint32(WORD_BITS - TABLE_BITS)
        limits = self.thresholds.take(buckets)
        values = np.where(words < limits, _own_values(buckets), self.others.take(buckets))
        return values, np.flatnonzero(words == limits)

    def value_of_tie(self, word: int, rest: bytes) -> int:
        """Return the value of a tie, given the other 256 bits of its number."""
        bucket = word >> (WORD_BITS - TABLE_BITS)
        if rest < self.ties[TIE_BYTES * bucket : TIE_BYTES * (bucket + 1)]:
            return bucket - (1 << (TABLE_BITS - 1))
        return int(self.others[bucket])


def _own_values(buckets: Words) -> NDArray[np.int16]:
    return (buckets.astype(np.uint16) - np.uint16(1 << (TABLE_BITS - 1))).view(np.int16)


@cache
def table() -> Table:
    """Return the table for the variance 2**19; it takes about 0.1 s and 1.3 MB, once for each process."""
    return _alias_table(_weights())


def _weights() -> list[int]:
    """Return the probabilities of the values from -2**14 to 2**14 - 1, in units of 2**-288."""
    half = 1 << (TABLE_BITS - 1)
    ratio = _exponential_of_power(TABLE_VARIANCE_BITS + 1)
    square = ratio * ratio >> _PRECISION
    density = [1 << _PRECISION]
    for _ in range(half):
        density.append(density[-1] * ratio >> _PRECISION)
        ratio = ratio * square >> _PRECISION
    whole = 2 * sum(density) - density[0] - density[half]
    weights = [(density[abs(value)] << _TOTAL_BITS) // whole for value in range(-half, half)]
    weights[half] += (1 << _TOTAL_BITS) - sum(weights)
    return weights


def _exponential_of_power(bits: int) -> int:
    """Return ``exp(-2**-bits)``, with `_PRECISION` bits after the point."""
    total, term, number = 0, 1 << _PRECISION, 0
    while term:
        total += -term if number % 2 else term
        number += 1
        term = (term >> bits) // number
    return total


def _alias_table(weights: list[int]) -> Table:
    """Return the table of Walker's method, by Vose's algorithm: *IEEE Trans. Software Eng.* 17(9), 1991."""
    capacity, half = 1 << _BUCKET_BITS, len(weights) // 2
    left, other = list(weights), list(range(len(weights)))
    small = [bucket for bucket, weight in enumerate(left) if weight < capacity]
    large = [bucket for bucket, weight in enumerate(left) if weight >= capacity]
    while small:
        bucket, giver = small.pop(), large[-1]
        other[bucket] = giver
        left[giver] -= capacity - left[bucket]
        if left[giver] < capacity:
            small.append(large.pop())
    # A bucket that is left is full: both of its values are its own, whatever the threshold.
    full = {bucket for bucket, giver in enumerate(other) if bucket == giver}
    limits = [
        (bucket << _BUCKET_BITS) + (0 if bucket in full else weight)
        for bucket, weight in enumerate(left)
    ]
    rest = 8 * TIE_BYTES
    return Table(
        thresholds=np.array([limit >> rest for limit in limits], np.uint32),
        ties=b"".join((limit & ((1 << rest) - 1)).to_bytes(TIE_BYTES, "big") for limit in limits),
        others=np.array([bucket - half for bucket in other], np.int16),
    )
