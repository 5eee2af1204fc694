"""The table of the discrete Gaussian, in exact arithmetic."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from aggregation.privacy import discrete_gaussian
from aggregation.privacy.discrete_gaussian import (
    LARGEST,
    SIGMA_SQUARED,
    TABLE_BITS,
    TABLE_VARIANCE_BITS,
    TIE_BYTES,
    WORD_BITS,
    table,
)

HALF = 1 << (TABLE_BITS - 1)
REST = 8 * TIE_BYTES

#: SHA-256 of the table.
DIGEST = "14f4e19ad469d2ed434fb66b62547da600103fd5d58ff1e60c421511bf7589e5"
BUCKET_BITS = WORD_BITS + REST - TABLE_BITS


def tie_of(bucket: int) -> bytes:
    """Return the last 256 bits of the threshold of a bucket."""
    return table().ties[TIE_BYTES * bucket : TIE_BYTES * (bucket + 1)]


def threshold(bucket: int) -> int:
    """Return the threshold of a bucket, as a number of 288 bits."""
    limits = table()
    return (int(limits.thresholds[bucket]) << REST) + int.from_bytes(tie_of(bucket), "big")


def probabilities() -> list[int]:
    """Return the probability of each value of the table, in units of 2**-288."""
    found = [0] * (2 * HALF)
    for bucket, other in enumerate(table().others.tolist()):
        own = threshold(bucket) - (bucket << BUCKET_BITS)
        found[bucket] += own
        found[other + HALF] += (1 << BUCKET_BITS) - own
    return found


def test_the_table_has_the_exact_probabilities() -> None:
    """Each is that of a discrete Gaussian with the variance 2**19, in units of 2**-288."""
    found = probabilities()
    with mpmath.workprec(400):
        scale = mpmath.mpf(2) ** (TABLE_VARIANCE_BITS + 1)
        density = [mpmath.exp(-(mpmath.mpf(k) ** 2) / scale) for k in range(HALF + 3000)]
        whole = 2 * mpmath.fsum(density) - 1
        units = mpmath.mpf(2) ** (WORD_BITS + REST) / whole
        errors = [abs(found[HALF + k] - density[abs(k)] * units) for k in range(-HALF, HALF)]
        lacking = 2 * mpmath.fsum(density[HALF:]) / whole
        assert lacking < mpmath.mpf(2) ** -373
        # The middle has what the others lack by rounding down, and what lies outside the table.
        assert errors.pop(HALF) < lacking * units + 2 * HALF
        assert max(errors) < lacking * units + 2
    assert sum(found) == 1 << (WORD_BITS + REST)


def test_the_table_is_the_same_on_every_machine() -> None:
    """Its bytes are pinned: another table would change every private aggregate."""
    found = table()
    data = found.thresholds.astype("<u4").tobytes() + found.ties
    data += found.others.astype("<i2").tobytes()
    assert hashlib.sha256(data).hexdigest() == DIGEST


@pytest.mark.parametrize("bucket", [0, 5, HALF, 2 * HALF - 1])
def test_a_tie_is_decided_by_the_other_bits(bucket: int) -> None:
    """A number below the threshold stands for the bucket's own value, any other for the other value."""
    limits = table()
    word = int(limits.thresholds[bucket])
    values, ties = limits.draws(np.array([word, word - 1 if word % 2**17 else word], np.uint32))
    assert ties.tolist()[0] == 0
    assert values[0] == limits.others[bucket]
    limit = int.from_bytes(tie_of(bucket), "big")
    if limit:
        below = (limit - 1).to_bytes(TIE_BYTES, "big")
        assert limits.value_of_tie(word, below) == bucket - HALF
    assert limits.value_of_tie(word, tie_of(bucket)) == limits.others[bucket]


def test_a_sum_of_scaled_draws_is_a_discrete_gaussian() -> None:
    """With the parameter 6 and the factor 2, their ratio is close to that of the real ones."""
    sigma, factor, reach = 6, 2, 160
    base = np.arange(-reach, reach + 1)
    draw = np.exp(-(base**2) / (2 * sigma**2))
    draw /= draw.sum()
    total = np.zeros(2 * 3 * reach + 1)
    for value, probability in zip(base, draw, strict=True):
        first = 3 * reach + factor * value - reach
        total[first : first + len(draw)] += probability * draw
    values = np.arange(-3 * reach, 3 * reach + 1)
    expected = np.exp(-(values**2) / (2 * sigma**2 * (1 + factor**2)))
    expected /= expected.sum()
    near = np.abs(values) < 80
    np.testing.assert_allclose(total[near], expected[near], rtol=1e-12)


def test_the_parameter_is_that_of_the_sum() -> None:
    """The squares of the scaled parameters add up."""
    assert SIGMA_SQUARED == 2**19 * (1 + 256**2 + 65536**2)
    assert LARGEST == HALF * (1 + 256 + 65536)
    assert Fraction(LARGEST) ** 2 > 512 * Fraction(SIGMA_SQUARED)


def test_the_exponential_is_exact() -> None:
    """The base of all probabilities is exp(-2**-20) in all of its bits but the last few."""
    bits = discrete_gaussian._PRECISION
    with mpmath.workprec(bits + 32):
        exact = mpmath.exp(-(mpmath.mpf(2) ** -20)) * mpmath.mpf(2) ** bits
        assert abs(discrete_gaussian._exponential_of_power(20) - exact) < 64
